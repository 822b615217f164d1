-- with: fence
local refused = fenced()
if refused then
  return refused
end
return accept(redis.call('SMEMBERS', BUSY), redis.call('SMEMBERS', UNOBEYED))
