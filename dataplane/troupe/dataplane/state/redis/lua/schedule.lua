-- What takes its place later. SCHEDULE orders all of the shard by when it is due, and what is due at once as its members
-- are: `PATH KIND NAME SEQUENCE`, with NULs between. SCHEDULED holds of each session its messages, as INBOX does, and
-- its reminders, each with its envelope, under their names and how many there are under `reminders`.
local function member(kind, name, sequence)
  return path .. '\0' .. kind .. '\0' .. name .. '\0' .. string.format('%020.0f', sequence or 0)
end

local function is_due_at(time, ...)
  redis.call('ZADD', SCHEDULE, exactly(time), member(...))
end

local function is_due_no_more(...)
  redis.call('ZREM', SCHEDULE, member(...))
end

local function scheduled_under(number)
  return entry_of(redis.call('HGET', SCHEDULED, 'number:' .. number))
end

local function keep_scheduled(entry)
  redis.call('HSET', SCHEDULED, 'number:' .. number_of(entry), cmsgpack.pack(entry))
  is_due_at(entry.due, 'message', entry.stream, entry.sequence)
end

local function schedule(entry, envelope)
  redis.call('HSET', ENVELOPES, number_of(entry), envelope)
  redis.call('HINCRBY', SCHEDULED, 'messages', 1)
  now_in(SCHEDULED, entry)
  keep_scheduled(entry)
end

local function nothing_is_scheduled()
  local left = redis.call('HMGET', SCHEDULED, 'messages', 'reminders')
  if (tonumber(left[1]) or 0) == 0 and (tonumber(left[2]) or 0) == 0 then
    redis.call('DEL', SCHEDULED)
  end
end

-- Its envelope stays where it `moves`.
local function unschedule(entry, moves)
  local number = number_of(entry)
  is_due_no_more('message', entry.stream, entry.sequence)
  redis.call('HDEL', SCHEDULED, 'number:' .. number)
  redis.call('HINCRBY', SCHEDULED, 'messages', -1)
  if not entry.skip then
    no_longer_in(SCHEDULED, entry)
  end
  if not moves then
    redis.call('HDEL', ENVELOPES, number)
  end
  nothing_is_scheduled()
end

-- A message that was settled: due at once, as a SKIP, so that the owner settles its number in order.
local function call_off(entry)
  entry.skip, entry.due = true, math.min(entry.due, entry.placed)
  keep_scheduled(entry)
  no_longer_in(SCHEDULED, entry)
end

-- One is `held` while it is due and the occurrence before waits.
local function reminder_of(name)
  local kept = redis.call('HGET', SCHEDULED, 'reminder:' .. name)
  return kept and cmsgpack.unpack(kept)
end

local function forget_reminder(name)
  if redis.call('HDEL', SCHEDULED, 'reminder:' .. name, 'envelope:' .. name) > 0 then
    is_due_no_more('reminder', name)
    redis.call('HINCRBY', SCHEDULED, 'reminders', -1)
    nothing_is_scheduled()
  end
end

local function keep_reminder(reminder)
  redis.call('HSET', SCHEDULED, 'reminder:' .. reminder.name, cmsgpack.pack(reminder))
  if reminder.held then
    is_due_no_more('reminder', reminder.name)
  else
    is_due_at(reminder.due, 'reminder', reminder.name)
  end
end

local function remind(reminder, envelope)
  forget_reminder(reminder.name)
  redis.call('HINCRBY', SCHEDULED, 'reminders', 1)
  redis.call('HSET', SCHEDULED, 'envelope:' .. reminder.name, envelope)
  keep_reminder(reminder)
end

local function reminders()
  local found = {}
  for _, field in ipairs(redis.call('HKEYS', SCHEDULED)) do
    local name = string.match(field, '^reminder:(.*)$')
    if name then
      found[#found + 1] = reminder_of(name)
    end
  end
  return found
end

-- What an occurrence held goes on when its number is settled.
local function let_go(stream)
  if not is_occurrence(stream) then
    return
  end
  local name = string.match(stream, '^reminder/(.*)/[^/]*$')
  local reminder = name and reminder_of(name)
  if reminder and reminder.held and reminder.stream == stream then
    reminder.held = nil
    keep_reminder(reminder)
  end
end

local function newest(reminder, now)
  if reminder.every == 0 then
    return reminder.due
  end
  return reminder.due + math.floor((now - reminder.due) / reminder.every) * reminder.every
end

-- A reminder is due: its occurrence takes its place in the inbox, the newest of what was missed. Whether that changed
-- the inbox.
local function occur(reminder, now)
  local entry = entry_of(cmsgpack.pack({
    sequence = position_of(reminder.stream).settled + 1, stream = reminder.stream, digest = reminder.digest,
    placed = newest(reminder, now),
  }))
  entry.message_id = string.format('%s/%.0f', entry.stream, entry.sequence)
  if waits_under(number_of(entry)) then
    reminder.held = true
    keep_reminder(reminder)
    return false
  end
  insert(entry, redis.call('HGET', SCHEDULED, 'envelope:' .. reminder.name), false)
  if reminder.every == 0 then
    forget_reminder(reminder.name)
  else
    reminder.due = entry.placed + reminder.every
    keep_reminder(reminder)
  end
  return true
end
