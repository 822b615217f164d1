-- with: clock fence stream entry bound fate rest leave inbox found schedule verbs promise record talk
-- ARGV: now, then message id, fate, digest and status of each message that is settled
local refused = fenced()
if refused then
  return refused
end
-- By the place of its arguments, each message that the deletion does not come too late for: `rules.is_past`.
local found = {}
for index = 5, #ARGV, 4 do
  local named = found_on(ARGV[index])
  if not named.fate or #named.live > 0 or #named.scheduled > 0 then
    found[index] = named
    look_at_records(named)
  end
end
look_at_talk()
look_at_inbox()

wake()
drop_talk()
for _, reminder in ipairs(reminders()) do
  forget_reminder(reminder.name)
end
for index, named in pairs(found) do
  local record = {fate = tonumber(ARGV[index + 1]), digest = ARGV[index + 2], status = ARGV[index + 3]}
  settle(named, record, ARGV[4])
end
return accept()
