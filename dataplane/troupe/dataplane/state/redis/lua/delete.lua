-- with: clock fence stream entry bound fate rest leave inbox found schedule verbs promise record talk
-- ARGV: now, then message id, fate, digest and status of each message that is settled
local refused = fenced()
if refused then
  return refused
end
local found = {}
for index = 5, #ARGV, 4 do
  found[index] = found_on(ARGV[index])
  look_at_records(found[index])
end
look_at_talk()
look_at_inbox()

wake()
drop_talk()
for _, reminder in ipairs(reminders()) do
  forget_reminder(reminder.name)
end
for index = 5, #ARGV, 4 do
  local record = {fate = tonumber(ARGV[index + 1]), digest = ARGV[index + 2], status = ARGV[index + 3]}
  settle(found[index], record, ARGV[4])
end
return accept()
