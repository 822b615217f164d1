-- Where streams stand: `troupe.broker.order.Position`, with the time of the last change.
local function position_of(stream)
  local kept = redis.call('HGET', TALK, 'stream:' .. stream)
  return kept and cmsgpack.unpack(kept) or {settled = 0, gaps = {}}
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

local function keep_position(stream, position, now)
  position.touched = tonumber(now)
  redis.call('HSET', TALK, 'stream:' .. stream, cmsgpack.pack(position))
  redis.call('ZADD', DUE, 'LT', now, path)
end
