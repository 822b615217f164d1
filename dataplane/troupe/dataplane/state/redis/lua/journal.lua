-- with: fence stream entry bound fate over
-- ARGV: sequence, stream, message id, attempts begun with this one, digest, what it is (`s`tarts something,
-- `c`ompensates), how many promises, then promise and schema of each, then step and content of each
local sequence, stream, id, attempts, digest = tonumber(ARGV[4]), ARGV[5], ARGV[6], tonumber(ARGV[7]), ARGV[8]
local waits = waits_under(ARGV[4] .. ' ' .. stream)
local refused = fenced(waits)
if refused then
  return refused
end
local over, fate, bound = is_over(position_of(stream), sequence, waits, attempts), fate_of(id), bound_by(verbs_of(id))
local starts, compensates = string.find(ARGV[9], 's', 1, true), string.find(ARGV[9], 'c', 1, true)
if starts and not over then
  if not compensates or bound.killed then
    refused = refused_cancelled(id, bound, fate)
  end
  refused = refused or (not compensates and refused_paused(id, bound))
  if refused then
    return refused
  end
end
if starts and (over or is_final(fate)) then
  return {'ENDED'}
end
if over or is_final(fate) then
  return accept()
end
redis.call('HLEN', journal_of(id))
redis.call('SCARD', JOURNALED)

local function keep_steps(first)
  if #ARGV >= first then
    redis.call('SADD', JOURNALED, id)
  end
  for index = first, #ARGV, 2 do
    redis.call('HSETNX', journal_of(id), digest .. ' ' .. ARGV[index], ARGV[index + 1])
  end
end

if ARGV[10] == '0' then
  keep_steps(11)
  return accept()
end
-- with: clock rest schedule promise
look_at_promises()

local first = 11 + 2 * tonumber(ARGV[10])
for index = 11, first - 1, 2 do
  make_promise(cmsgpack.unpack(ARGV[index]), ARGV[index + 1])
end
keep_steps(first)
return accept()
