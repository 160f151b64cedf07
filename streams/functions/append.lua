-- Append events to a lane's log and settle the commands they answer, all or nothing.
-- KEYS: lease, head, events, commands, ids, ids:expiry, parked, archived[, per client that is replied to at once: its replies]
-- ARGV: fence, expected seq, expected hash, token, raise ('1' moves the watermark along),
--       number of events, then per event: bytes, hash;
--       number of settlements, then per settlement: entry, id ('' leaves the mark alone), answer, forget at (ms);
--       optionally the number of parked commands, then per parked command: bytes, signature, id, why, deliveries;
--       where there are clients: how many entries of replies are kept, for how many seconds,
--       then per client: number of answers, then the answers
-- Returns {'ok'[, how far the lane is archived]} | {'fenced'} | {'head', seq, hash} | {'settled', index of the settlement that is not open}
redis.register_function('tocsin_append', function(keys, args)
  local lease, head, events, commands, ids, expiry, parked, archived = unpack(keys)
  local fence, seq, hash, token, raise = unpack(args, 1, 5)

  -- Every check precedes the first write: a function does not roll back.
  if not holds(lease, fence) then return {'fenced'} end
  local last = redis.call('HMGET', head, 'seq', 'hash')
  if (last[1] or '0') ~= seq or (last[2] or string.rep('0', 64)) ~= hash then
    return {'head', last[1] or '0', last[2] or string.rep('0', 64)}
  end
  local first_event = 7
  local event_count = tonumber(args[6])
  local first_settlement = first_event + 2 * event_count + 1
  local settlement_count = tonumber(args[first_settlement - 1])
  local marks, open, named = {}, {}, {}
  for index = 1, settlement_count do
    local at = first_settlement + 4 * (index - 1)
    local entry, id = args[at], args[at + 1]
    named[index] = id
    -- Those asked for with this one need not be asked for again; most settle neighbours.
    if open[entry] == nil then
      for _, row in ipairs(redis.call('XPENDING', commands, 'ingest', entry, '+', settlement_count - index + 1)) do
        if open[row[1]] == nil then open[row[1]] = true end
      end
    end
    if not open[entry] then return {'settled', index} end
    -- Twice in one append is once too often.
    open[entry] = false
  end
  local known = settlement_count > 0 and redis.call('HMGET', ids, unpack(named)) or {}
  for index = 1, settlement_count do
    local entry, id = args[first_settlement + 4 * (index - 1)], named[index]
    if id ~= '' then
      if not known[index] then return {'settled', index} end
      local digest, number, marked, answer = parse_mark(known[index])
      if marked ~= entry or answer ~= '' then return {'settled', index} end
      marks[index] = {digest, number}
    end
  end

  local first_parked = first_settlement + 4 * settlement_count + 1
  local parked_count = tonumber(args[first_parked - 1] or '0')

  local number = tonumber(seq)
  for index = 1, event_count do
    local bytes
    bytes, hash = args[first_event + 2 * (index - 1)], args[first_event + 2 * (index - 1) + 1]
    number = number + 1
    redis.call('XADD', events, string.format('%.0f-%s', number, token), 'e', bytes, 'h', hash)
  end
  local last_seq = string.format('%.0f', number)
  if event_count > 0 then
    redis.call('HSET', head, 'seq', last_seq, 'hash', hash, 'token', token)
    if raise == '1' then
      redis.call('HSET', head, 'wm_seq', last_seq, 'wm_hash', hash, 'wm_token', token, 'wm_replid', replication_id())
    end
  end
  local entries, answered, forgotten = {}, {}, {}
  for index = 1, settlement_count do
    local at = first_settlement + 4 * (index - 1)
    local entry, id, answer, forget_at = unpack(args, at, at + 3)
    entries[index] = entry
    if marks[index] then
      answered[#answered + 1] = id
      answered[#answered + 1] = mark_of(marks[index][1], marks[index][2], entry, answer)
      forgotten[#forgotten + 1] = forget_at
      forgotten[#forgotten + 1] = id
    end
  end
  if #entries > 0 then
    redis.call('XACK', commands, 'ingest', unpack(entries))
    redis.call('XDEL', commands, unpack(entries))
  end
  if #answered > 0 then
    redis.call('HSET', ids, unpack(answered))
    redis.call('ZADD', expiry, unpack(forgotten))
  end
  for index = 1, parked_count do
    local at = first_parked + 5 * (index - 1)
    local bytes, signature, id, why, deliveries = unpack(args, at, at + 4)
    redis.call('XADD', parked, '*', 'c', bytes, 's', signature, 'i', id, 'r', why, 'd', deliveries)
  end

  local at = first_parked + 5 * parked_count + 2
  for index = 9, #keys do
    local reply = {}
    for answer = 1, tonumber(args[at]) do
      reply[#reply + 1] = 'a'
      reply[#reply + 1] = args[at + answer]
    end
    -- Whoever named a key that takes no reply goes without: the append stands.
    redis.pcall('XADD', keys[index], 'MAXLEN', '~', args[first_parked + 5 * parked_count], '*', unpack(reply))
    redis.pcall('EXPIRE', keys[index], args[first_parked + 5 * parked_count + 1])
    at = at + #reply / 2 + 1
  end
  -- A version before this one kept it in the head: that holds until the archive is heard of.
  return {'ok', archived and redis.call('HGET', archived, 'seq') or redis.call('HGET', head, 'archived') or nil}
end)
