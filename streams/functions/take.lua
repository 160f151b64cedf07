-- Deliver commands to the lane's owner: new ones, or those delivered before and not yet settled.
-- KEYS: lease, commands, ids
-- ARGV: fence, consumer, count, 'new' | the entry after which pending ones are wanted
-- A consumer is one process: what it took before and takes again, because the answer was lost, is no new
-- delivery; what another one took is.
-- Returns {'fenced'} | {'ok', server time in ms, {{entry, deliveries, mark or '', fields}, …}}
redis.register_function('tocsin_take', function(keys, args)
  local lease, commands, ids = keys[1], keys[2], keys[3]
  local fence, consumer, count, from = unpack(args)
  if not holds(lease, fence) then return {'fenced'} end

  local entries, deliveries = {}, {}
  if from == 'new' then
    local read = redis.call('XREADGROUP', 'GROUP', 'ingest', consumer, 'COUNT', count, 'STREAMS', commands, '>')
    if read then entries = read[1][2] end
  else
    for _, row in ipairs(redis.call('XPENDING', commands, 'ingest', '(' .. from, '+', count)) do
      local entry, times = row[1], row[4]
      if row[2] ~= consumer then times = times + 1 end
      deliveries[entry] = times
      local claimed = redis.call('XCLAIM', commands, 'ingest', consumer, 0, entry, 'RETRYCOUNT', times)
      entries[#entries + 1] = claimed[1]
    end
  end

  local taken = {}
  for _, entry in ipairs(entries) do
    local fields, id = entry[2], ''
    for index = 1, #fields, 2 do
      if fields[index] == 'i' then id = fields[index + 1] end
    end
    taken[#taken + 1] = {entry[1], deliveries[entry[1]] or 1, redis.call('HGET', ids, id) or '', fields}
  end
  return {'ok', now_ms(), taken}
end)
