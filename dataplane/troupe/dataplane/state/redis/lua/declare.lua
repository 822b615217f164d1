-- The number of shards that the fleet began with; ARGV[2] becomes it where there is none.
redis.call('SET', KEYS[1], ARGV[2], 'NX')
return tonumber(redis.call('GET', KEYS[1]))
