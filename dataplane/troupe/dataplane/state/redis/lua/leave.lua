-- How a message leaves the inbox.
local function look_at_leaving()
  redis.call('HLEN', ENVELOPES)
  redis.call('HLEN', BACKLOG)
  redis.call('ZCARD', WAITING)
end

local function count(messages, bytes)
  redis.call('HINCRBY', INBOX, 'messages', messages)
  redis.call('HINCRBY', INBOX, 'bytes', bytes)
  redis.call('HINCRBY', BACKLOG, 'messages', messages)
  redis.call('HINCRBY', BACKLOG, 'bytes', bytes)
end

local function no_longer_in(box, entry)
  local field, gone, left = 'message:' .. entry.message_id, number_of(entry), {}
  for _, number in ipairs(list_of(redis.call('HGET', box, field))) do
    if number ~= gone then
      left[#left + 1] = number
    end
  end
  redis.call('HINCRBY', box, 'live', -1)
  if #left > 0 then
    redis.call('HSET', box, field, cmsgpack.pack(left))
    return
  end
  redis.call('HDEL', box, field)
  if redis.call('HEXISTS', box == INBOX and SCHEDULED or INBOX, field) == 0 then
    redis.call('ZREM', WAITING, path .. '\0' .. entry.message_id)
  end
end

-- The envelope stays where `moves`.
local function remove(entry, moves)
  local number = number_of(entry)
  -- From 0, since -0 is no integer to Redis.
  count(-1, 0 - redis.call('HSTRLEN', ENVELOPES, number))
  redis.call('HDEL', INBOX, 'number:' .. number)
  if not moves then
    redis.call('HDEL', ENVELOPES, number)
  end
  if not entry.skip then
    no_longer_in(INBOX, entry)
  end
  if tonumber(redis.call('HGET', INBOX, 'messages')) == 0 then
    redis.call('DEL', INBOX)
    busy_no_more()
  end
end
