-- Each worker's id and its fields.
local found = {'OK'}
for _, id in ipairs(redis.call('SMEMBERS', WORKERS)) do
  found[#found + 1] = {id, redis.call('HGETALL', worker_of(id))}
end
return found
