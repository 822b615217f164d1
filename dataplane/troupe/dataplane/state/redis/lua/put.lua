-- with: clock fence stream entry bound fate over rest leave inbox found place
-- ARGV: the entry, the envelope, whether a turn runs
local entry, envelope, busy = entry_of(ARGV[4]), ARGV[5], ARGV[6] == '1'
local refused = fenced()
if refused then
  return refused
end
local number = number_of(entry)
local waits, found, now = waits_under(number), found_on(entry.message_id, number), clock()

-- Whether it writes its mark to what waits under its number: it runs under it.
local function marks()
  return entry.instance and not waits.instance and not waits.skip and waits.message_id == entry.message_id
    and not has_ended(waits, entry.attempts)
end

local outcome, fate, status = placed(entry, found, busy, now)
if outcome == 'SETTLED' then
  return accept(outcome)
end
look_at_leaving()
redis.call('SCARD', BUSY)
if entry.instance or entry.redriven then
  look_at_inbox()
  look_at_ages()
end
if waits or found.stands then
  if waits and marks() then
    waits.epoch, waits.instance = entry.epoch, entry.instance
    keep_entry(waits)
  end
  return accept('PRESENT')
end
if outcome ~= 'SCHEDULED' and not fate then
  take_place(entry, envelope, found, outcome)
  return accept(outcome)
end
-- with: schedule verbs promise record
look_at_inbox()
look_at_records(found)

if fate then
  take_place(entry, envelope, found, outcome)
  settle(found, {fate = fate, digest = entry.digest, status = status}, exactly(now))
else
  schedule(entry, envelope)
end
return accept(outcome)
