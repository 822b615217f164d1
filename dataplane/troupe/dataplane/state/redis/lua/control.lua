-- with: clock entry bound fate rest leave inbox found schedule verbs promise record
-- One verb for one message: `troupe.dataplane.state.verbs.verb_answer`.
-- ARGV: message id, verb, verb id, attempt or empty, the PAUSE that it lifts, status, whether it is only asked; of a
-- RESTART also steps that were seen, the entry and the envelope of the message that goes on, the ids of its promises,
-- then step and content of each of its journal
local id, verb, verb_id, attempt, lifts, status = ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[7]
local BINDING = {[VERB_ANSWER_APPLIED] = true, [VERB_ANSWER_PENDING] = true}
local verbs, was_lifted = verbs_of(id) or {}, false
for _, other in ipairs(verbs) do
  if other.id == verb_id then
    return other.answer
  end
  was_lifted = was_lifted or other.lifts == verb_id
end
local found = found_on(id)

-- Index of the attempt that what waits is in: one that ended in a wait goes on with the next.
local function attempt_of(entry)
  if entry.starts > 0 or entry.instance or entry.suspended > 0 then
    return math.max(0, entry.attempts - 1)
  end
  return entry.attempts
end

local function begun()
  for _, entry in ipairs(found.live) do
    if entry.starts > 0 or entry.instance then
      return true
    end
  end
  return false
end

local function steps()
  return found.journaled and redis.call('HLEN', journal_of(id)) or 0
end

local function lifts_it(pause)
  return lifts == '' or lifts == pause
end

local function within()
  local most = 0
  for _, entry in ipairs(found.live) do
    most = math.max(most, attempt_of(entry))
  end
  return most
end

local function restarted(waits, known)
  if is_final(found.fate) or found.bound.ending then
    return VERB_ANSWER_TOO_LATE
  end
  if not (known or found.fate) then
    return VERB_ANSWER_NOT_FOUND
  end
  if attempt and not (waits and attempt == within()) then
    return VERB_ANSWER_STALE
  end
  local rests
  if waits then
    rests = not begun()
  else
    rests = found.fate and not found.awaited
  end
  if rests and not (waits or ARGV[9]) and redis.call('ZSCORE', SETTLED, id) then
    return VERB_ANSWER_NOT_FOUND
  end
  if not rests or tonumber(ARGV[9]) ~= steps() then
    return VERB_ANSWER_NOT_AT_REST
  end
  return VERB_ANSWER_APPLIED
end

local function answer()
  local waits, scheduled = #found.live > 0, #found.scheduled > 0
  local known = waits or scheduled or found.journaled
  if verb == VERB_RESTART then
    return restarted(waits, known)
  end
  if is_final(found.fate) or (found.fate and not (waits or scheduled or found.awaited)) then
    return VERB_ANSWER_TOO_LATE
  end
  if attempt and attempt ~= within() then
    return VERB_ANSWER_STALE
  end
  if verb == VERB_RESUME then
    for _, pause in ipairs(found.bound.pauses) do
      if lifts_it(pause) then
        return VERB_ANSWER_APPLIED
      end
    end
    return VERB_ANSWER_NOT_FOUND
  end
  if verb == VERB_PAUSE and found.bound.ending then
    return VERB_ANSWER_TOO_LATE
  end
  if verb == VERB_PAUSE and was_lifted then
    return VERB_ANSWER_STALE
  end
  return known and VERB_ANSWER_APPLIED or VERB_ANSWER_PENDING
end

-- Under which digest the message is settled where it waits or is scheduled, if it is.
local function ends_at_once(came_to)
  if came_to ~= VERB_ANSWER_APPLIED then
    return nil
  end
  if verb == VERB_RESTART then
    return entry_of(ARGV[10]).digest
  end
  if not ENDING[verb] or found.journaled or begun() then
    return nil
  end
  local foremost = found.live[1] or found.scheduled[1]
  return foremost and foremost.digest
end

local came_to = answer()
if ARGV[8] == '1' then
  return came_to
end
look_at_inbox()
look_at_verbs()
look_at_records(found)
if verb == VERB_RESTART and came_to == VERB_ANSWER_APPLIED then
  redis.call('HLEN', journal_of(entry_of(ARGV[10]).message_id))
end

local now = exactly(clock())
if verb == VERB_RESUME and came_to == VERB_ANSWER_APPLIED then
  for _, other in ipairs(verbs) do
    if other.verb == VERB_PAUSE and lifts_it(other.id) then
      other.binds = false
    end
  end
end
verbs[#verbs + 1] = {
  id = verb_id, verb = verb, answer = came_to, lifts = lifts, status = status, recorded = tonumber(now),
  binds = (ENDING[verb] or verb == VERB_PAUSE) and BINDING[came_to] or false,
}
wake()
keep_verbs(id, verbs)
ages(now)

-- Another message goes on from what this one has done.
local function restart()
  local entry, steps = entry_of(ARGV[10]), journal_of(entry_of(ARGV[10]).message_id)
  entry.placed, entry.due = tonumber(now), tonumber(now)
  schedule(entry, ARGV[11])
  if #ARGV > 12 then
    redis.call('SADD', JOURNALED, entry.message_id)
  end
  for index = 13, #ARGV, 2 do
    redis.call('HSET', steps, entry.digest .. ' ' .. ARGV[index], ARGV[index + 1])
  end
  move_promises(id, cmsgpack.unpack(ARGV[12]), entry.message_id)
end

if verb == VERB_RESTART and came_to == VERB_ANSWER_APPLIED then
  restart()
end
local digest = ends_at_once(came_to)
if digest then
  found.bound = bound_by(verbs)
  settle(found, {fate = FATE_CANCELLED, digest = digest, status = status}, now)
end
return came_to
