-- with: entry fate inbox
-- ARGV: message id
local id = ARGV[2]
local kept = redis.call('HGET', RECORDS, id)
if not kept then
  return nil
end
local redriven = REDRIVABLE[fate_of(id)] and (redis.call('HEXISTS', AWAITED, id) == 1 or #waiting(id) > 0)
return {kept, redriven and 1 or 0}
