local function entries_of(box, numbers)
  local entries = {}
  for index, number in ipairs(numbers) do
    entries[index] = entry_of(redis.call('HGET', box, 'number:' .. number))
  end
  return entries
end

local function foremost_first(entries)
  table.sort(entries, function(a, b) return a.place < b.place end)
  return entries
end

-- Where the message waits, foremost first, and where it is scheduled, without SKIPs.
local function waiting(id)
  return foremost_first(entries_of(INBOX, list_of(redis.call('HGET', INBOX, 'message:' .. id))))
end

local function scheduled(id)
  return entries_of(SCHEDULED, list_of(redis.call('HGET', SCHEDULED, 'message:' .. id)))
end

-- Writes below are only reached when the keys were found to be what they should.
local function look_at_inbox()
  look_at_leaving()
  look_at_rest()
  redis.call('HLEN', INBOX)
  redis.call('HLEN', SCHEDULED)
  redis.call('HLEN', OUTBOX)
  redis.call('ZCARD', SCHEDULE)
end

-- WAITING orders messages by session and id; no path holds a NUL.
local function now_in(box, entry)
  local field = 'message:' .. entry.message_id
  local numbers = list_of(redis.call('HGET', box, field))
  numbers[#numbers + 1] = number_of(entry)
  redis.call('HSET', box, field, cmsgpack.pack(numbers))
  redis.call('ZADD', WAITING, 0, path .. '\0' .. entry.message_id)
  redis.call('HINCRBY', box, 'live', 1)
end

local function move_to_head(entry)
  entry.place = redis.call('HINCRBY', INBOX, 'first', -1)
  keep_entry(entry)
  wake()
end

-- `envelope`: nil where it stands there already.
local function insert(entry, envelope, at_head)
  local number = number_of(entry)
  if envelope then
    redis.call('HSET', ENVELOPES, number, envelope)
  end
  count(1, envelope and #envelope or redis.call('HSTRLEN', ENVELOPES, number))
  if not entry.skip then
    now_in(INBOX, entry)
  end
  if at_head then
    move_to_head(entry)
  else
    entry.place = redis.call('HINCRBY', INBOX, 'last', 1)
    keep_entry(entry)
  end
  if redis.call('HEXISTS', INBOX, 'rest') == 0 then
    redis.call('SADD', BUSY, path)
  end
end

local function skip(entry)
  entry.skip = true
  keep_entry(entry)
  no_longer_in(INBOX, entry)
end
