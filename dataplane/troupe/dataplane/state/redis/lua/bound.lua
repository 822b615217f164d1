-- Which verbs bind a message. VERBS holds what was recorded for each, oldest first. `troupe.dataplane.state.verbs` says
-- the same.
local ENDING = {[VERB_CANCEL] = true, [VERB_KILL] = true}
local FREE = {killed = false, pauses = {}}

local function verbs_of(id)
  local kept = redis.call('HGET', VERBS, id)
  return kept and cmsgpack.unpack(kept)
end

-- What binds: the first CANCEL or KILL, whether one is a KILL, and the ids of PAUSEs.
local function bound_by(verbs)
  if not verbs then
    return FREE
  end
  local bound = {killed = false, pauses = {}}
  for _, verb in ipairs(verbs) do
    if verb.binds and ENDING[verb.verb] then
      bound.ending, bound.killed = bound.ending or verb, bound.killed or verb.verb == VERB_KILL
    elseif verb.binds then
      bound.pauses[#bound.pauses + 1] = verb.id
    end
  end
  return bound
end

local function is_paused(bound)
  return #bound.pauses > 0
end

-- The refusals of what a CANCEL or KILL, and of what a PAUSE forbids. `fate`: of the message's record, which a CANCEL
-- may have settled.
local function refused_cancelled(id, bound, fate)
  return (bound.ending or fate == FATE_CANCELLED) and {'CANCELLED', id, bound.killed and 1 or 0}
end

local function refused_paused(id, bound)
  return is_paused(bound) and {'PAUSED', id}
end
