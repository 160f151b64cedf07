-- Raise a lane's watermark: events up to it are durable on the primary that proved it, and on no other.
-- KEYS: head, events.  ARGV: seq, hash, token, replication id of the primary whose WAIT proved it
-- Returns 'ok' | 'moved' (another primary) | 'differs' (that event does not stand there)
redis.register_function{function_name = 'tocsin_raise', flags = {'allow-oom'}, callback = function(keys, args)
  local head, events = keys[1], keys[2]
  local seq, hash, token, replid = unpack(args)
  if replication_id() ~= replid then return 'moved' end
  local now = redis.call('HMGET', head, 'wm_seq', 'wm_replid')
  if now[2] == replid and tonumber(now[1]) >= tonumber(seq) then return 'ok' end
  if seq ~= '0' then
    local stands = redis.call('XRANGE', events, seq .. '-' .. token, seq .. '-' .. token)
    if #stands == 0 or stands[1][2][4] ~= hash then return 'differs' end
  end
  redis.call('HSET', head, 'wm_seq', seq, 'wm_hash', hash, 'wm_token', token, 'wm_replid', replid)
  return 'ok'
end}
