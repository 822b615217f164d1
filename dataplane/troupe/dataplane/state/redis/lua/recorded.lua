-- The ids of messages that a CANCEL or KILL, a KILL, and a PAUSE bind.
local function recorded()
  local cancelled, killed, paused = {}, {}, {}
  for _, id in ipairs(redis.call('SMEMBERS', BOUND)) do
    local bound = bound_by(verbs_of(id))
    if bound.ending then
      cancelled[#cancelled + 1] = id
    end
    if bound.killed then
      killed[#killed + 1] = id
    end
    if is_paused(bound) then
      paused[#paused + 1] = id
    end
  end
  return {cancelled, killed, paused}
end
