-- Where two primaries took commands for a while, an entry id may be another command's here: that one is open.
local function done_with(commands, entry, id)
  local stands = redis.call('XRANGE', commands, entry, entry)
  if stands[1] and id_of(stands[1][2]) ~= id then return end
  redis.call('XACK', commands, 'ingest', entry)
  redis.call('XDEL', commands, entry)
end

-- Put events back that the log lost, with the same seq and bytes, and the marks of the commands they answer.
-- From the first of them on the field `restored` of the head says where the log stood, and by whom it is restored,
-- until the events that tell of it stand in the log: these are appended by this function too, by nobody ('').
-- KEYS: lease, head, events, commands, ids, ids:expiry, sequence, parked
-- ARGV: fence, expected seq, expected hash, token of the last event, by whom ('owner' | 'archive' | ''),
--       number of events, then per event: stream id, bytes, hash;
--       number of marks, then per mark: entry, id ('' tells the sequence alone), digest, sequence, source, answer,
--       forget at (ms);
--       number of parked commands, then per parked command: bytes, signature, id, why, deliveries
-- Returns {'ok'} | {'fenced'} | {'head', seq, hash}
redis.register_function{function_name = 'tocsin_restore', flags = {'allow-oom'}, callback = function(keys, args)
  local lease, head, events, commands, ids, expiry, sequence, parked = unpack(keys)
  local fence, seq, hash, token, by = unpack(args, 1, 5)
  if not holds(lease, fence) then return {'fenced'} end
  local last = redis.call('HMGET', head, 'seq', 'hash')
  if (last[1] or '0') ~= seq or (last[2] or string.rep('0', 64)) ~= hash then
    return {'head', last[1] or '0', last[2] or string.rep('0', 64)}
  end

  local begun = redis.call('HGET', head, 'restored')
  if by == '' then
    redis.call('HDEL', head, 'restored')
  elseif not begun or by == 'archive' then
    redis.call('HSET', head, 'restored', (begun and string.match(begun, '^%S+ %S+') or seq .. ' ' .. hash) .. ' ' .. by)
  end

  local event_count = tonumber(args[6])
  for index = 1, event_count do
    local id, bytes, stated = unpack(args, 7 + 3 * (index - 1), 9 + 3 * (index - 1))
    redis.call('XADD', events, id, 'e', bytes, 'h', stated)
    seq, hash = string.match(id, '^(%d+)-'), stated
  end
  redis.call('HSET', head, 'seq', seq, 'hash', hash, 'token', token)
  -- The fence of a lane never goes back, also where its counter was lost.
  local tokens = tonumber(redis.call('HGET', head, 'tokens') or '0')
  if tokens < tonumber(token) then redis.call('HSET', head, 'tokens', token) end

  local first = 8 + 3 * event_count
  for index = 1, tonumber(args[first - 1]) do
    local entry, id, digest, number, source, answer, forget_at = unpack(args, first + 7 * (index - 1), first + 7 * index - 1)
    local known = tonumber(redis.call('HGET', sequence, source) or '0')
    if known < tonumber(number) then redis.call('HSET', sequence, source, number) end
    if id ~= '' then
      done_with(commands, entry, id)
      -- Submitted again while its mark was lost: that entry would be taken for a replay; the answer stands.
      local digest_again, _, again, answer_again = parse_mark(redis.call('HGET', ids, id) or '')
      if again and again ~= entry and digest_again == digest and answer_again == '' then
        done_with(commands, again, id)
      end
      redis.call('HSET', ids, id, mark_of(digest, number, entry, answer))
      redis.call('ZADD', expiry, forget_at, id)
    end
  end

  first = first + 7 * tonumber(args[first - 1]) + 1
  for index = 1, tonumber(args[first - 1]) do
    local bytes, signature, id, why, deliveries = unpack(args, first + 5 * (index - 1), first + 5 * index - 1)
    redis.call('XADD', parked, '*', 'c', bytes, 's', signature, 'i', id, 'r', why, 'd', deliveries)
  end
  return {'ok'}
end}
