-- with: fence stream inbox record rules outbox
-- ARGV: sequence, stream, message id, attempts begun with this one, version, now, fate (0: no record), digest, status,
-- what the turn changes (`s`tate, `h`istory, `u`sage), these three, then target, sequence, stream and envelope of what
-- it sent
local sequence, stream, id, attempts, version = tonumber(ARGV[4]), ARGV[5], ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local now, new = ARGV[9], {fate = tonumber(ARGV[10]), digest = ARGV[11], status = ARGV[12]}
local changes, state, history, usage = ARGV[13], ARGV[14], ARGV[15], ARGV[16]
local waits = waits_under(ARGV[4] .. ' ' .. stream)
local refused = fenced(waits)
if refused then
  return refused
end
local stands = tonumber(redis.call('HGET', TALK, 'version') or 0)
local position = position_of(stream)
if is_over(position, sequence, waits, attempts) then
  return accept(stands)
end
local found, gap = place(position, sequence)
if found ~= 'NEXT' then
  return {'BEYOND', position.settled}
end
local fate = fate_of(id)
local done = new.fate == FATE_DONE
if new.fate == 0 then
  if not fate and waits and not waits.skip then
    return {'WAITS'}
  end
elseif new.fate ~= FATE_CANCELLED and is_cancelled(id, fate) then
  return {'CANCELLED'}
end
if done and is_final(fate) then
  return {'ENDED'}
end
if done and version ~= stands then
  return {'VERSION', stands}
end
local live = new.fate ~= 0 and waiting(id) or {}
look_at_records()
if waits or #live > 0 or #ARGV > 16 then
  look_at_inbox()
end
if done then
  redis.call('LLEN', HISTORY)
  redis.call('ZCARD', IDLE)
  redis.call('ZCARD', SESSIONS)
end

if gap then
  table.remove(position.gaps, gap)
else
  position.settled = sequence
end
keep_position(stream, position, now)
if waits then
  remove(waits)
end
if new.fate ~= 0 then
  local copies = {}
  for _, entry in ipairs(live) do
    if number_of(entry) ~= ARGV[4] .. ' ' .. stream then
      copies[#copies + 1] = entry
    end
  end
  settle(id, copies, fate, new, now)
end
came(id, ARGV[4] .. ' ' .. stream)
if not done then
  return accept(stands)
end
local talk = {'version', stands + 1, 'updated', now}
local function set(field, value)
  talk[#talk + 1], talk[#talk + 2] = field, value
end
if stands == 0 then
  set('created', now)
  redis.call('ZADD', SESSIONS, 0, path)
end
if string.find(changes, 's', 1, true) then
  set('state', state)
end
if string.find(changes, 'u', 1, true) then
  set('usage', usage)
end
redis.call('HSET', TALK, unpack(talk))
redis.call('HINCRBY', TALK, 'turns', 1)
redis.call('ZADD', IDLE, now, path)
if string.find(changes, 'h', 1, true) then
  redis.call('RPUSH', HISTORY, history)
end
for index = 17, #ARGV, 4 do
  send(ARGV[index], tonumber(ARGV[index + 1]), ARGV[index + 2], ARGV[index + 3], now)
end
return accept(stands + 1)
