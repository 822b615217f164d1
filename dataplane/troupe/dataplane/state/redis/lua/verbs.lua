-- How verbs come to bind, and bind no more. BOUND holds the ids of messages that one binds, UNOBEYED the sessions that
-- have such and are not at rest.
local function binds(bound)
  return bound.ending ~= nil or is_paused(bound)
end

local function look_at_verbs()
  redis.call('HLEN', VERBS)
  redis.call('SCARD', BOUND)
  redis.call('SCARD', UNOBEYED)
end

local function keep_verbs(id, verbs)
  redis.call('HSET', VERBS, id, cmsgpack.pack(verbs))
  if binds(bound_by(verbs)) then
    redis.call('SADD', BOUND, id)
    redis.call('SADD', UNOBEYED, path)
  elseif redis.call('SREM', BOUND, id) == 1 and redis.call('EXISTS', BOUND) == 0 then
    redis.call('SREM', UNOBEYED, path)
  end
end

local function unbind(id)
  local verbs = verbs_of(id)
  for _, verb in ipairs(verbs) do
    verb.binds = false
  end
  keep_verbs(id, verbs)
end
