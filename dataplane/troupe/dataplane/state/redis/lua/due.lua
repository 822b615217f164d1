-- with: clock fence stream entry bound fate rest leave inbox found place schedule verbs promise record
-- ARGV: how many at most, then paths of sessions in which a turn runs whose message does not wait
local refused = fenced()
if refused then
  return refused
end
local now, busy = clock(), {}
for index = 5, #ARGV do
  busy[ARGV[index]] = true
end
local taken = redis.call('ZRANGEBYSCORE', SCHEDULE, '-inf', exactly(now), 'LIMIT', 0, ARGV[4])
for index, kept in ipairs(taken) do
  local session, kind, name, sequence = string.match(kept, '^(%Z*)%z(%Z*)%z(.*)%z(%d*)$')
  taken[index] = {session = session, kind = kind, name = name, sequence = tonumber(sequence)}
  open(session)
  look_at_all()
end

-- A scheduled message takes its place. Whether that changed the inbox.
local function enter(number)
  local entry, stood = scheduled_under(number), scheduled_under(number)
  local found = without(found_on(entry.message_id), number)
  local outcome, fate, status = placed(entry, found, busy[path], now)
  local enters = outcome ~= 'SETTLED'
  if enters then
    take_place(entry, nil, found, outcome)
  end
  unschedule(stood, enters)
  if enters and fate then
    settle(found, {fate = fate, digest = entry.digest, status = status}, exactly(now))
  end
  return enters
end

local changed, seen = {}, {}
for _, item in ipairs(taken) do
  open(item.session)
  local did = true
  if item.kind == 'message' then
    did = enter(string.format('%.0f ', item.sequence) .. item.name)
  elseif item.kind == 'reminder' then
    did = occur(reminder_of(item.name), now)
  else
    expire_promise(promise_of(item.name))
  end
  if did and not seen[path] then
    seen[path], changed[#changed + 1] = true, path
  end
end
local next = redis.call('ZRANGE', SCHEDULE, 0, 0, 'WITHSCORES')[2]
return accept(changed, #taken, next and exactly(math.max(0, tonumber(next) - now)) or false)
