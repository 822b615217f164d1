-- with: fence stream rest
-- ARGV: sequence, stream, count, now
local sequence, stream, count = tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])
local refused = fenced()
if refused then
  return refused
end
local position = position_of(stream)
if count < 1 or sequence ~= position.settled + 1 then
  return accept(0)
end
for _, field in ipairs(redis.call('HKEYS', INBOX)) do
  local waits, of = string.match(field, '^number:(%d+) (.*)$')
  if of == stream and tonumber(waits) >= sequence and tonumber(waits) < sequence + count then
    return accept(0)
  end
end
look_at_rest()
redis.call('ZCARD', OLD)

for given_up = sequence, sequence + count - 1 do
  position.gaps[#position.gaps + 1] = given_up
end
position.settled = sequence + count - 1
redis.call('HSET', TALK, 'stream:' .. stream, packed_position(position, ARGV[7]))
ages(ARGV[7])
wake()
return accept(1)
