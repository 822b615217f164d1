-- The revision of the id ARGV[1].
if redis.call('HLEN', revision_of(ARGV[1])) == 0 then
  return {'OK'}
end
return {'OK', about(ARGV[1]), redis.call('HGET', revision_of(ARGV[1]), 'config')}
