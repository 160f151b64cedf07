-- Tell how far a lane is archived: only forward, and only where the event that was archived stands.
-- KEYS: head, events.  ARGV: seq, hash
-- Returns 'ok' | 'differs' (that event does not stand there)
redis.register_function('tocsin_archived', function(keys, args)
  local head, events = keys[1], keys[2]
  local seq, hash = args[1], args[2]
  local stands = redis.call('XRANGE', events, seq, seq)
  if #stands == 0 or stands[1][2][4] ~= hash then return 'differs' end
  local known = redis.call('HGET', head, 'archived')
  if not known or tonumber(known) < tonumber(seq) then redis.call('HSET', head, 'archived', seq) end
  return 'ok'
end)
