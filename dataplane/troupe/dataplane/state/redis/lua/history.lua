-- Deltas, newest first: `VERSION DELTA` each. HISTORY is in the order of versions, and not every version has one.
-- ARGV: below which version, or empty; how many at most
local function version_at(index)
  return tonumber(string.match(redis.call('LINDEX', HISTORY, index), '^%d+'))
end

local low, high = 0, redis.call('LLEN', HISTORY)
if ARGV[2] ~= '' then
  -- The first that is not below it, by halving.
  local before = tonumber(ARGV[2])
  while low < high do
    local middle = math.floor((low + high) / 2)
    if version_at(middle) < before then
      low = middle + 1
    else
      high = middle
    end
  end
end
local page = {}
if high > 0 then
  local deltas = redis.call('LRANGE', HISTORY, math.max(0, high - tonumber(ARGV[3])), high - 1)
  for index = #deltas, 1, -1 do
    page[#page + 1] = deltas[index]
  end
end
return page
