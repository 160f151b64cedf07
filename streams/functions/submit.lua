-- Put commands into their lane once: same id and bytes give the first answer again.
-- KEYS: commands, ids, ids:expiry, sequence
-- ARGV: per command: id, digest, source, bytes, signature, client to reply to, expected sequence or '';
--       then the part of maxmemory from which on nothing new is taken: the rest is for results
-- Returns per command: {'accepted', sequence, entry} | {'known', mark} | {'conflict'} | {'sequence', last}
--       | {'full', percent in use}
redis.register_function('tocsin_submit', function(keys, args)
  local commands, ids, expiry, sequence = keys[1], keys[2], keys[3], keys[4]
  local count = math.floor(#args / 7)
  local high_water = tonumber(args[7 * count + 1] or '1')

  local due = redis.call('ZRANGEBYSCORE', expiry, '-inf', now_ms(), 'LIMIT', 0, 4 * count)
  if #due > 0 then
    redis.call('HDEL', ids, unpack(due))
    redis.call('ZREM', expiry, unpack(due))
  end

  -- Marks and sequences are kept here and written together in the end, each being one write to replicate.
  local replies, marks, numbers, written, counted, named = {}, {}, {}, {}, {}, {}
  for index = 1, count do named[index] = args[7 * index - 6] end
  local known = redis.call('HMGET', ids, unpack(named))
  local function number_of(source)
    return numbers[source] or tonumber(redis.call('HGET', sequence, source) or '0')
  end
  for index = 1, count do
    local id, digest, source, bytes, signature, client, expected = unpack(args, 7 * index - 6, 7 * index)
    local mark = marks[id] or known[index]
    if mark then
      -- A write, so that a WAIT on this connection proves what is answered here.
      marks[id] = mark
      replies[index] = parse_mark(mark) == digest and {'known', mark} or {'conflict'}
    elseif expected ~= '' and string.format('%.0f', number_of(source)) ~= expected then
      -- A write here too: the sequence that a refusal tells must not be one that a failover takes back.
      numbers[source] = number_of(source)
      replies[index] = {'sequence', string.format('%.0f', numbers[source])}
    elseif part_in_use() >= high_water then
      replies[index] = {'full', string.format('%.0f', 100 * part_in_use())}
    else
      numbers[source] = number_of(source) + 1
      local number = string.format('%.0f', numbers[source])
      local entry = redis.call('XADD', commands, '*', 'i', id, 'c', bytes, 's', signature, 'q', number, 'r', client)
      marks[id] = mark_of(digest, number, entry, '')
      replies[index] = {'accepted', numbers[source], entry}
    end
  end
  for id, mark in pairs(marks) do written[#written + 1] = id; written[#written + 1] = mark end
  for source, number in pairs(numbers) do
    counted[#counted + 1] = source
    counted[#counted + 1] = string.format('%.0f', number)
  end
  if #written > 0 then redis.call('HSET', ids, unpack(written)) end
  if #counted > 0 then redis.call('HSET', sequence, unpack(counted)) end
  return replies
end)
