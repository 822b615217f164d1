-- with: fence entry rest leave inbox
-- ARGV: sequence, stream, the mark's epoch and instance
local refused = fenced()
if refused then
  return refused
end
local waits = waits_under(ARGV[4] .. ' ' .. ARGV[5])
if not waits or waits.epoch ~= tonumber(ARGV[6]) or waits.instance ~= ARGV[7] then
  return accept(0)
end
look_at_inbox()

waits.epoch, waits.instance, waits.starts = nil, nil, math.max(1, waits.starts)
move_to_head(waits)
return accept(1)
