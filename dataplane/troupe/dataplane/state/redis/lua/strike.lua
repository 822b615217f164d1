-- with: fence rest
-- ARGV: sequence and stream of each number
local refused = fenced()
if refused then
  return refused
end
look_at_rest()
redis.call('HLEN', OUTBOX)
redis.call('HLEN', INBOX)

for index = 4, #ARGV, 2 do
  redis.call('HDEL', OUTBOX, 'number:' .. ARGV[index] .. ' ' .. ARGV[index + 1])
end
if redis.call('HLEN', OUTBOX) == 1 then
  redis.call('DEL', OUTBOX)
  busy_no_more()
end
return accept()
