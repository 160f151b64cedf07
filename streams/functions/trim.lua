-- Let go of a lane's oldest events, and keep in their place what the owner needs to know of them.
-- The event at the cut stays, so that a reader who stands there still finds its position.
-- KEYS: lease, head, events, state, archived
-- ARGV: fence, seq of the cut, its hash, kind of what is known ('' keeps nothing), what is known up to the cut
-- Returns {'ok', events let go} | {'fenced'} | {'early'} (not all of it is durable, archived and folded) | {'differs'}
redis.register_function{function_name = 'tocsin_trim', flags = {'allow-oom'}, callback = function(keys, args)
  local lease, head, events, state, archived = unpack(keys)
  local fence, seq, hash, kind, known = unpack(args)
  if not holds(lease, fence) then return {'fenced'} end
  local cut = tonumber(seq)
  local stand, mark, replid = unpack(redis.call('HMGET', head, 'seq', 'wm_seq', 'wm_replid'))
  local kept, folded = unpack(redis.call('HMGET', archived, 'seq', 'folded'))
  for _, reached in ipairs({stand or 0, mark or 0, kept or 0, folded or 0}) do
    if tonumber(reached) < cut then return {'early'} end
  end
  if replid ~= replication_id() then return {'early'} end
  local stands = redis.call('XRANGE', events, seq, seq)
  if #stands == 0 or stands[1][2][4] ~= hash then return {'differs'} end
  if kind ~= '' then redis.call('HSET', state, 'seq', seq, 'hash', hash, 'kind', kind, 'known', known) end
  return {'ok', redis.call('XTRIM', events, 'MINID', seq)}
end}
