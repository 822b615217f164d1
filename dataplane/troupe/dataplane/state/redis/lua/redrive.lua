-- with: stream fate found
-- ARGV: message id, sequence, stream
local id, sequence, stream = ARGV[2], tonumber(ARGV[3]), ARGV[4]
if not REDRIVABLE[fate_of(id) or 0] or place(position_of(stream), sequence) == 'SETTLED' then
  return nil
end
redis.call('HLEN', AWAITED)
look_at_ages()

await(id, ARGV[3] .. ' ' .. stream)
return nil
