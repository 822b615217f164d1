-- `troupe.dataplane.state.rules`, of which this is the same in Lua.
local function has_ended(waits, attempts)
  if not waits or waits.attempts < attempts then
    return false
  end
  return waits.attempts > attempts or not (waits.starts > 0 or waits.instance)
end

local function is_over(position, sequence, waits, attempts)
  return place(position, sequence) == 'SETTLED' or has_ended(waits, attempts)
end

local function is_cancelled(id, fate)
  return fate == FATE_CANCELLED or tombstone_of(id) ~= nil
end

local function is_copy(entry, fate)
  if entry.redriven then
    return not REDRIVABLE[fate or 0]
  end
  return fate
end

local function marks(entry, waits)
  return entry.instance and not waits.instance and not waits.skip and waits.message_id == entry.message_id
    and not has_ended(waits, entry.attempts)
end
