-- The newest complete revision below the bound ARGV[1].
local id = redis.call('ZREVRANGEBYSCORE', COMPLETE, ARGV[1], '-inf', 'LIMIT', 0, 1)[1]
if not id then
  return {'OK'}
end
return {'OK', about(id), redis.call('HGET', revision_of(id), 'config')}
