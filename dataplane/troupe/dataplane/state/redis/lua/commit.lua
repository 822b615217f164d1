-- with: fence stream turn
-- ARGV: sequence, stream, message id, attempts begun with this one, version, now, fate (0: no record), digest, status;
-- what the turn changes (`s`tate, `h`istory, `u`sage, s`n`apshot) and the first three of these; when the session goes
-- where nothing follows; how many companions, reminders and reminders to forget there are, or nothing; these: sequence,
-- stream, message id, attempts, fate, digest and status of each companion, each reminder and its envelope, each name;
-- the snapshot where there is one; then target, sequence, stream and envelope of what it sent

-- Most commits are of a plain turn: it ends DONE, nothing is known of its message but where it waits, and it leaves no
-- more than state, history, usage and outbox. They come to their end here. What is not plain has changed nothing here.
local waits, carry_out
if ARGV[10] == string.format('%d', FATE_DONE) and ARGV[18] == '' and not changed('n') then
  local id, number, stream = ARGV[6], ARGV[4] .. ' ' .. ARGV[5], ARGV[5]
  local talk = redis.call('HMGET', TALK, 'version', 'turns', 'stream:' .. stream)
  local version, position = tonumber(talk[1] or 0), position_in(talk[3])
  local inbox = redis.call('HMGET', INBOX, 'number:' .. number, 'message:' .. id, 'rest')
  local scheduled = redis.call('HMGET', SCHEDULED, 'number:' .. number, 'message:' .. id)
  local plain = version == tonumber(ARGV[8]) and come_to(position, tonumber(ARGV[4]))
    and not (inbox[3] or scheduled[1] or scheduled[2] or is_occurrence(stream))
    and not redis.call('HGET', RECORDS, id) and not redis.call('HGET', VERBS, id)
    and not redis.call('HGET', PROMISED, 'message:' .. id)
  if plain then
    local journaled = redis.call('SISMEMBER', JOURNALED, id) == 1
    redis.call('ZCARD', SETTLED)
    redis.call('ZCARD', OLD)
    look_at_turn()

    function carry_out()
      redis.call('HSET', RECORDS, id, ARGV[10] .. ' ' .. now .. ' ' .. ARGV[11] .. ' ' .. ARGV[12])
      redis.call('ZADD', SETTLED, now, id)
      ages(now)
      if journaled then
        redis.call('SREM', JOURNALED, id)
        redis.call('DEL', journal_of(id))
      end
      local fields = {'stream:' .. stream, packed_position(position, now)}
      send_from(19, fields)
      save(version + 1, tonumber(talk[2] or 0) + 1, fields)
      return accept(version + 1)
    end
    if not (inbox[1] or inbox[2] or fenced()) then
      return carry_out()
    end
    waits = inbox[2] and inbox[1]
  end
end
-- with: entry over rest leave
if waits then
  local entry = entry_of(waits)
  if not (entry.skip or has_ended(entry, tonumber(ARGV[7])) or fenced(entry))
    and entry.message_id == ARGV[6] and #list_of(redis.call('HGET', INBOX, 'message:' .. ARGV[6])) == 1 then
    look_at_leaving()
    look_at_rest()

    remove(entry)
    return carry_out()
  end
end
-- with: clock bound fate inbox found schedule verbs promise record
local function message_of(sequence, stream, id, attempts, fate, digest, status)
  local number = sequence .. ' ' .. stream
  return {
    sequence = tonumber(sequence), stream = stream, number = number, id = id, attempts = tonumber(attempts),
    fate = tonumber(fate), digest = digest, status = status, waits = waits_under(number),
  }
end

-- Whether a companion of a turn waits in the attempt that the commit is the end of. `position`: of its stream.
local function stands_in(companion, position)
  local waits = companion.waits
  return waits and not waits.skip and waits.message_id == companion.id and not is_final(companion.found.fate)
    and not is_over(position, companion.sequence, waits, companion.attempts)
end

local first = message_of(ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[10], ARGV[11], ARGV[12])
local done = first.fate == FATE_DONE
local refused = fenced(first.waits)
if refused then
  return refused
end
local talk = redis.call('HMGET', TALK, 'version', 'turns', 'stream:' .. first.stream)
local stood = tonumber(talk[1] or 0)
local positions = {[first.stream] = position_in(talk[3])}
if is_over(positions[first.stream], first.sequence, first.waits, first.attempts) then
  return accept(stood)
end
if not come_to(positions[first.stream], first.sequence) then
  return {'BEYOND', positions[first.stream].settled, first.sequence}
end
local found = found_on(first.id, first.number)
first.found = found
if first.fate == 0 then
  if not found.fate and first.waits and not first.waits.skip then
    return {'WAITS'}
  end
elseif first.fate ~= FATE_CANCELLED then
  refused = refused_cancelled(first.id, found.bound, found.fate) or (done and refused_paused(first.id, found.bound))
  if refused then
    return refused
  end
end

local messages, reminds, forgets, at = {first}, 0, 0, 19
if done and ARGV[18] ~= '' then
  local companions
  companions, reminds, forgets = string.match(ARGV[18], '^(%d+) (%d+) (%d+)$')
  for _ = 1, companions do
    messages[#messages + 1] = message_of(unpack(ARGV, at, at + 6))
    at = at + 7
  end
end
for index = 2, #messages do
  local other = messages[index]
  other.found = found_on(other.id, other.number)
  refused = refused_cancelled(other.id, other.found.bound) or refused_paused(other.id, other.found.bound)
  if refused then
    return refused
  end
end
if done and is_final(found.fate) then
  return {'ENDED'}
end
if done and tonumber(ARGV[8]) ~= stood then
  return {'VERSION', stood}
end
local ids = {[first.id] = true}
for index = 2, #messages do
  local other = messages[index]
  local position = position_of(other.stream)
  if ids[other.id] or not stands_in(other, position) then
    return {'GONE', other.id}
  end
  ids[other.id] = true
  positions[other.stream] = positions[other.stream] or position
  if not come_to(positions[other.stream], other.sequence) then
    return {'BEYOND', positions[other.stream].settled, other.sequence}
  end
end

look_at_records(found)
if first.waits or found.stands or found.rests or #found.live > 0 or #found.scheduled > 0 or #ARGV > 18
  or is_occurrence(first.stream) then
  look_at_inbox()
end
for index = 2, #messages do
  look_at_records(messages[index].found)
end
if done then
  look_at_turn()
end

if found.rests then
  wake()
end
local fields = {}
for stream, position in pairs(positions) do
  fields[#fields + 1], fields[#fields + 2] = 'stream:' .. stream, packed_position(position, now)
end
ages(now)
for _, each in ipairs(messages) do
  if each.waits then
    remove(each.waits)
  end
  if each.found.stands then
    unschedule(each.found.stands)
  end
  if each.fate ~= 0 then
    settle(without(each.found, each.number), each, now)
  end
  came(each.found, each.number)
  let_go(each.stream)
end
if not done then
  redis.call('HSET', TALK, unpack(fields))
  return accept(stood)
end
local names = at + 2 * reminds
for index = names, names + forgets - 1 do
  forget_reminder(ARGV[index])
end
for index = at, names - 1, 2 do
  remind(cmsgpack.unpack(ARGV[index]), ARGV[index + 1])
end
at = names + forgets
if changed('n') then
  fields[#fields + 1], fields[#fields + 2] = 'snapshot', ARGV[at]
  at = at + 1
end
send_from(at, fields)
save(stood + 1, tonumber(talk[2] or 0) + 1, fields)
return accept(stood + 1)
