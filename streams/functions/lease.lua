-- A lane's lease: who may write, proven by a fence (owner, token, nonce) that no two acquisitions share.
-- With a full memory too: only an owner can make room.

-- KEYS: lease, head, commands.  ARGV: owner, nonce, time to live (ms), the fence held before or ''
-- Returns {'ok', fence, token, head seq, head hash} | {'held', fence of the holder, its time left (ms)}
redis.register_function{function_name = 'tocsin_acquire', flags = {'allow-oom'}, callback = function(keys, args)
  local lease, head, commands = unpack(keys)
  local owner, nonce, ttl, before = unpack(args)
  local holder = redis.call('GET', lease)
  if holder and holder ~= before then return {'held', holder, redis.call('PTTL', lease)} end
  local token = redis.call('HINCRBY', head, 'tokens', 1)
  local fence = owner .. ' ' .. token .. ' ' .. nonce
  redis.call('SET', lease, fence, 'PX', ttl)
  -- From the beginning: what was settled before is known by its mark, and nothing is skipped.
  redis.pcall('XGROUP', 'CREATE', commands, 'ingest', '0', 'MKSTREAM')
  -- Processes that are gone and left nothing pending need not be remembered.
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', commands, 'ingest')) do
    if consumer[4] == 0 then redis.call('XGROUP', 'DELCONSUMER', commands, 'ingest', consumer[2]) end
  end
  local last = redis.call('HMGET', head, 'seq', 'hash')
  return {'ok', fence, token, last[1] or '0', last[2] or string.rep('0', 64)}
end}

-- KEYS: lease.  ARGV: fence, time to live (ms).  Returns 1, or 0 when the lease is no longer held.
redis.register_function{function_name = 'tocsin_renew', flags = {'allow-oom'}, callback = function(keys, args)
  if not holds(keys[1], args[1]) then return 0 end
  return redis.call('PEXPIRE', keys[1], args[2])
end}

-- KEYS: lease.  ARGV: fence.  Returns 1, or 0 when the lease was no longer held.
redis.register_function{function_name = 'tocsin_release', flags = {'allow-oom'}, callback = function(keys, args)
  if not holds(keys[1], args[1]) then return 0 end
  return redis.call('DEL', keys[1])
end}
