-- with: entry fate inbox found record
-- ARGV: message id
local id = ARGV[2]
local kept = redis.call('HGET', RECORDS, id)
if not kept or not REDRIVABLE[tonumber(string.match(kept, '^%d+'))] or #waiting(id) > 0
  or redis.call('HEXISTS', AWAITED, id) == 1 then
  return nil
end
look_at_ages()

goes_with_time(id, string.match(kept, '^%d+ (%S+) '))
return nil
