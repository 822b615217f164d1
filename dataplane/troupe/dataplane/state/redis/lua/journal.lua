-- with: fence stream inbox record rules
-- ARGV: sequence, stream, message id, attempts begun with this one, digest, whether something starts, then step and
-- content of each
local sequence, stream, id, attempts, digest = tonumber(ARGV[4]), ARGV[5], ARGV[6], tonumber(ARGV[7]), ARGV[8]
local waits = waits_under(ARGV[4] .. ' ' .. stream)
local refused = fenced(waits)
if refused then
  return refused
end
local over, fate = is_over(position_of(stream), sequence, waits, attempts), fate_of(id)
local starts, final = ARGV[9] == '1', is_final(fate)
if starts and not over and is_cancelled(id, fate) then
  return {'CANCELLED'}
end
if starts and (over or final) then
  return {'ENDED'}
end
if over or final or #ARGV == 9 then
  return accept()
end
redis.call('HLEN', journal_of(id))

redis.call('SADD', JOURNALED, id)
for index = 10, #ARGV, 2 do
  redis.call('HSETNX', journal_of(id), digest .. ' ' .. ARGV[index], ARGV[index + 1])
end
return accept()
