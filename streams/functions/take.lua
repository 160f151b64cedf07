-- Deliver commands to the lane's owner: new ones, or those delivered before and not yet settled.
-- KEYS: lease, commands, ids
-- ARGV: fence, consumer, count, 'new' | the entry after which pending ones are wanted[, the delivery made alone]
-- A consumer is one process: what it took before and takes again, because the answer was lost, is no new
-- delivery; what another one took is. Where an entry's delivery would be the one that is made alone, it is
-- the only entry of its answer, and those behind it are not counted.
-- Returns {'fenced'} | {'ok', server time in ms, {{entry, deliveries, mark or '', fields}, …}[, entry to go on after]}
redis.register_function('tocsin_take', function(keys, args)
  local lease, commands, ids = keys[1], keys[2], keys[3]
  local fence, consumer, count, from, alone = unpack(args)
  if not holds(lease, fence) then return {'fenced'} end

  local entries, deliveries, more = {}, {}, nil
  if from == 'new' then
    local read = redis.call('XREADGROUP', 'GROUP', 'ingest', consumer, 'COUNT', count, 'STREAMS', commands, '>')
    if read then entries = read[1][2] end
  else
    local rows = redis.call('XPENDING', commands, 'ingest', '(' .. from, '+', count)
    if #rows == tonumber(count) then more = rows[#rows][1] end
    for index, row in ipairs(rows) do
      local entry, times = row[1], row[4]
      if row[2] ~= consumer then times = times + 1 end
      local suspect = times == tonumber(alone)
      if suspect and #entries > 0 then
        more = rows[index - 1][1]
        break
      end
      -- An entry that is not in the stream any more leaves the pending ones by this, and is not returned.
      local claimed = redis.call('XCLAIM', commands, 'ingest', consumer, 0, entry, 'RETRYCOUNT', times)
      if claimed[1] then
        deliveries[entry] = times
        entries[#entries + 1] = claimed[1]
        if suspect then
          more = entry
          break
        end
      end
    end
  end

  if #entries == 0 then return {'ok', now_ms(), {}, more} end
  local named = {}
  for at, entry in ipairs(entries) do named[at] = id_of(entry[2]) or '' end
  local marks, taken = redis.call('HMGET', ids, unpack(named)), {}
  for at, entry in ipairs(entries) do
    taken[at] = {entry[1], deliveries[entry[1]] or 1, marks[at] or '', entry[2]}
  end
  return {'ok', now_ms(), taken, more}
end)
