-- with: term
-- ARGV: term, id, then the fields of its hash.
redis.call('HLEN', worker_of(ARGV[2]))
redis.call('DEL', worker_of(ARGV[2]))
redis.call('HSET', worker_of(ARGV[2]), unpack(ARGV, 3))
redis.call('SADD', WORKERS, ARGV[2])
return {'OK'}
