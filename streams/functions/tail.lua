-- Read a lane's log after a position, no further than the watermark proven on this primary.
-- KEYS: head, events.  ARGV: seq of the position, its hash, count
-- Returns {'ok', head seq, {{bytes, hash}, …}} | {'ahead', head seq, head hash}: the log does not contain the position
redis.register_function{function_name = 'tocsin_tail', flags = {'no-writes'}, callback = function(keys, args)
  local head, events = keys[1], keys[2]
  local after, hash, count = tonumber(args[1]), args[2], args[3]
  local last = redis.call('HMGET', head, 'seq', 'hash', 'wm_seq', 'wm_replid')
  local head_seq = last[1] or '0'
  if tonumber(head_seq) < after then return {'ahead', head_seq, last[2] or ''} end
  local function at(seq) return redis.call('XRANGE', events, seq, seq) end
  if after > 0 then
    local stands = at(args[1])
    if #stands > 0 and stands[1][2][4] ~= hash then return {'ahead', head_seq, last[2]} end
  end
  if not last[3] or last[4] ~= replication_id() or tonumber(last[3]) <= after then return {'ok', head_seq, {}} end
  local read = {}
  for _, entry in ipairs(redis.call('XRANGE', events, string.format('%.0f', after + 1), last[3], 'COUNT', count)) do
    read[#read + 1] = {entry[2][2], entry[2][4]}
  end
  return {'ok', head_seq, read}
end}
