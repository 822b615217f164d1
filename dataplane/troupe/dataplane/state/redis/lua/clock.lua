-- The store's clock, in seconds: as it stood when the script began.
local function clock()
  local now = redis.call('TIME')
  return tonumber(now[1]) + tonumber(now[2]) / 1e6
end

-- A time as it is told to Redis, to the last bit.
local function exactly(time)
  return string.format('%.17g', time)
end

local function bytes_of(hexadecimal)
  return (string.gsub(hexadecimal, '..', function(byte) return string.char(tonumber(byte, 16)) end))
end
