-- Where streams stand: `troupe.broker.order.Position`, with the time of the last change.
local function position_in(kept)
  return kept and cmsgpack.unpack(kept) or {settled = 0, gaps = {}}
end

local function position_of(stream)
  return position_in(redis.call('HGET', TALK, 'stream:' .. stream))
end

-- SETTLED, NEXT or BEYOND; for a gap, its index too.
local function place(position, sequence)
  if sequence > position.settled then
    return sequence == position.settled + 1 and 'NEXT' or 'BEYOND'
  end
  for index, gap in ipairs(position.gaps) do
    if gap == sequence then
      return 'NEXT', index
    end
  end
  return 'SETTLED'
end

-- False, and nothing changed, where the number does not come next.
local function come_to(position, sequence)
  local found, gap = place(position, sequence)
  if found ~= 'NEXT' then
    return false
  end
  if gap then
    table.remove(position.gaps, gap)
  else
    position.settled = sequence
  end
  return true
end

local function packed_position(position, now)
  position.touched = tonumber(now)
  return cmsgpack.pack(position)
end
