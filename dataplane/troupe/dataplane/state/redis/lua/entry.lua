-- What waits. INBOX holds for each number, `SEQUENCE STREAM`, its entry; for each message the numbers under which it
-- waits live; counts; the places at both ends; and `rest`, while the session is at rest. SCHEDULED holds in the same
-- way what waits to be due, without an order. ENVELOPES holds the envelopes of both, which most scripts do not look at.
local function number_of(entry)
  return string.format('%.0f ', entry.sequence) .. entry.stream
end

-- Fields that are as they mostly are, are left out of what is packed.
local USUAL = {__index = {
  skip = false, attempts = 0, failures = 0, starts = 0, not_before = 0, first_failed = 0, redriven = false, due = 0,
  rejection = '', awaits = {}, suspended = 0,
}}

local function entry_of(kept)
  return kept and setmetatable(cmsgpack.unpack(kept), USUAL)
end

local function waits_under(number)
  return entry_of(redis.call('HGET', INBOX, 'number:' .. number))
end

local function list_of(kept)
  return kept and cmsgpack.unpack(kept) or {}
end

local function keep_entry(entry)
  redis.call('HSET', INBOX, 'number:' .. number_of(entry), cmsgpack.pack(entry))
end
