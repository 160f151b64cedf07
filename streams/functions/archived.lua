-- Tell how far a lane is archived and folded: only forward, and only where the event that was archived stands.
-- KEYS: archived, events.  ARGV: seq, hash[, the seq up to which every projection has folded the lane]
-- Returns 'ok' | 'differs' (that event does not stand there)
-- With a full memory too: what is archived and folded is what makes room.
redis.register_function{function_name = 'tocsin_archived', flags = {'allow-oom'}, callback = function(keys, args)
  local archived, events = keys[1], keys[2]
  local seq, hash, folded = unpack(args)
  local stands = redis.call('XRANGE', events, seq, seq)
  if #stands == 0 or stands[1][2][4] ~= hash then return 'differs' end
  for field, value in pairs({seq = seq, folded = folded}) do
    local known = redis.call('HGET', archived, field)
    if not known or tonumber(known) < tonumber(value) then redis.call('HSET', archived, field, value) end
  end
  return 'ok'
end}
