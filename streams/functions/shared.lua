-- What the functions of this library share.

-- The fence of a lane is the text of its lease: owner, token, nonce.
local function holds(lease, fence)
  return redis.call('GET', lease) == fence
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The replication id tells one primary's history from another's.
local function replication_id()
  return string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
end

-- The part of maxmemory that is in use, looked at every 100 ms; 0 where there is no limit.
local memory = {looked_at = 0, part = 0}

local function part_in_use()
  local now = now_ms()
  if math.abs(now - memory.looked_at) >= 100 then
    local info = redis.call('INFO', 'memory')
    local limit = tonumber(string.match(info, '\nmaxmemory:(%d+)'))
    local used = tonumber(string.match(info, '\nused_memory:(%d+)'))
    memory = {looked_at = now, part = limit > 0 and used / limit or 0}
  end
  return memory.part
end

-- An id's mark: digest of the command, its sequence, its stream entry, and the answer once there is one.
local function mark_of(digest, sequence, entry, answer)
  return digest .. ' ' .. sequence .. ' ' .. entry .. ' ' .. answer
end

local function parse_mark(mark)
  return string.match(mark, '^(%x+) (%d+) (%S+) (.*)$')
end

-- The command id that an entry of a lane's commands carries; nil where it carries none.
local function id_of(fields)
  local id
  for index = 1, #fields, 2 do
    if fields[index] == 'i' then id = fields[index + 1] end
  end
  return id
end
