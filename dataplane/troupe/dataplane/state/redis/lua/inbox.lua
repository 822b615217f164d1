-- What waits. INBOX holds for each number, `SEQUENCE STREAM`, its entry; for each message the numbers under which it
-- waits live; counts; and the places at both ends. ENVELOPES holds the envelopes, which most scripts do not look at.
local function number_of(entry)
  return string.format('%.0f ', entry.sequence) .. entry.stream
end

local function waits_under(number)
  local kept = redis.call('HGET', INBOX, 'number:' .. number)
  return kept and cmsgpack.unpack(kept)
end

-- Where the message waits, foremost first, without SKIPs.
local function waiting(id)
  local entries, kept = {}, redis.call('HGET', INBOX, 'message:' .. id)
  if kept then
    for index, number in ipairs(cmsgpack.unpack(kept)) do
      entries[index] = waits_under(number)
    end
    table.sort(entries, function(a, b) return a.place < b.place end)
  end
  return entries
end

local function keep_live(id, numbers)
  if #numbers > 0 then
    redis.call('HSET', INBOX, 'message:' .. id, cmsgpack.pack(numbers))
  else
    redis.call('HDEL', INBOX, 'message:' .. id)
  end
end

local function live_numbers(id)
  local kept = redis.call('HGET', INBOX, 'message:' .. id)
  return kept and cmsgpack.unpack(kept) or {}
end

local function no_longer_live(entry)
  local numbers, gone = live_numbers(entry.message_id), number_of(entry)
  for index, number in ipairs(numbers) do
    if number == gone then
      table.remove(numbers, index)
      break
    end
  end
  keep_live(entry.message_id, numbers)
  redis.call('HINCRBY', INBOX, 'live', -1)
end

-- Writes below are only reached when the keys were found to be what they should.
local function look_at_inbox()
  redis.call('HLEN', INBOX)
  redis.call('HLEN', ENVELOPES)
  redis.call('HLEN', BACKLOG)
  redis.call('HLEN', OUTBOX)
  redis.call('SCARD', BUSY)
end

local function keep_entry(entry)
  redis.call('HSET', INBOX, 'number:' .. number_of(entry), cmsgpack.pack(entry))
end

local function count(messages, bytes)
  redis.call('HINCRBY', INBOX, 'messages', messages)
  redis.call('HINCRBY', INBOX, 'bytes', bytes)
  redis.call('HINCRBY', BACKLOG, 'messages', messages)
  redis.call('HINCRBY', BACKLOG, 'bytes', bytes)
end

local function move_to_head(entry)
  entry.place = redis.call('HINCRBY', INBOX, 'first', -1)
  keep_entry(entry)
end

local function insert(entry, envelope, at_head)
  redis.call('HSET', ENVELOPES, number_of(entry), envelope)
  count(1, #envelope)
  if not entry.skip then
    local numbers = live_numbers(entry.message_id)
    numbers[#numbers + 1] = number_of(entry)
    keep_live(entry.message_id, numbers)
    redis.call('HINCRBY', INBOX, 'live', 1)
  end
  if at_head then
    move_to_head(entry)
  else
    entry.place = redis.call('HINCRBY', INBOX, 'last', 1)
    keep_entry(entry)
  end
  redis.call('SADD', BUSY, path)
end

local function busy_no_more()
  if redis.call('EXISTS', INBOX) == 0 and redis.call('EXISTS', OUTBOX) == 0 then
    redis.call('SREM', BUSY, path)
  end
end

local function remove(entry)
  local number = number_of(entry)
  -- From 0, since -0 is no integer to Redis.
  count(-1, 0 - redis.call('HSTRLEN', ENVELOPES, number))
  redis.call('HDEL', ENVELOPES, number)
  redis.call('HDEL', INBOX, 'number:' .. number)
  if not entry.skip then
    no_longer_live(entry)
  end
  if tonumber(redis.call('HGET', INBOX, 'messages')) == 0 then
    redis.call('DEL', INBOX)
    busy_no_more()
  end
end

local function skip(entry)
  entry.skip = true
  keep_entry(entry)
  no_longer_live(entry)
end
