-- with: fence inbox record talk
-- ARGV: now, then message id, fate, digest and status of each message that is settled
local refused = fenced()
if refused then
  return refused
end
local found = {}
for index = 5, #ARGV, 4 do
  found[index] = {live = waiting(ARGV[index]), fate = fate_of(ARGV[index])}
end
look_at_talk()
look_at_inbox()
look_at_records()

drop_talk()
for index = 5, #ARGV, 4 do
  local record = {fate = tonumber(ARGV[index + 1]), digest = ARGV[index + 2], status = ARGV[index + 3]}
  settle(ARGV[index], found[index].live, found[index].fate, record, ARGV[4])
end
return accept()
