-- Whether an attempt is over: `troupe.dataplane.state.rules`, of which this is the same in Lua.
local function has_ended(waits, attempts)
  if not waits or waits.attempts < attempts then
    return false
  end
  return waits.attempts > attempts or not (waits.starts > 0 or waits.instance)
end

local function is_over(position, sequence, waits, attempts)
  return place(position, sequence) == 'SETTLED' or has_ended(waits, attempts)
end
