-- Put a command into its lane once: same id and bytes give the first answer again.
-- KEYS: commands, ids, ids:expiry, sequence
-- ARGV: id, digest, source, bytes, signature, client to reply to, expected sequence or ''
-- Returns {'accepted', sequence, entry} | {'known', mark} | {'conflict'} | {'sequence', last}
redis.register_function('tocsin_submit', function(keys, args)
  local commands, ids, expiry, sequence = keys[1], keys[2], keys[3], keys[4]
  local id, digest, source, bytes, signature, client, expected = unpack(args)

  local mark = redis.call('HGET', ids, id)
  if mark then
    -- A write, so that a WAIT on this connection proves what is answered here.
    redis.call('HSET', ids, id, mark)
    if parse_mark(mark) ~= digest then return {'conflict'} end
    return {'known', mark}
  end
  if expected ~= '' then
    -- A write here too: the sequence that a refusal tells must not be one that a failover takes back.
    local last = string.format('%.0f', redis.call('HINCRBY', sequence, source, 0))
    if last ~= expected then return {'sequence', last} end
  end

  local due = redis.call('ZRANGEBYSCORE', expiry, '-inf', now_ms(), 'LIMIT', 0, 4)
  for _, old in ipairs(due) do
    redis.call('HDEL', ids, old)
    redis.call('ZREM', expiry, old)
  end
  local number = redis.call('HINCRBY', sequence, source, 1)
  local entry = redis.call('XADD', commands, '*', 'i', id, 'c', bytes, 's', signature, 'q', number, 'r', client)
  redis.call('HSET', ids, id, mark_of(digest, number, entry, ''))
  return {'accepted', number, entry}
end)
