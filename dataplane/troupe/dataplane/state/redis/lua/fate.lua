-- How messages ended: `FATE SETTLED DIGEST STATUS`.
local REDRIVABLE = {[FATE_DEAD] = true, [FATE_EXPIRED] = true}

local function fate_of(id)
  local kept = redis.call('HGET', RECORDS, id)
  return kept and tonumber(string.match(kept, '^%d+'))
end

local function is_final(fate)
  return fate and not REDRIVABLE[fate]
end
