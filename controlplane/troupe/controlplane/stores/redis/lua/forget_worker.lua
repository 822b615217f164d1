-- with: term
-- ARGV: term, id.
redis.call('HLEN', worker_of(ARGV[2]))
redis.call('DEL', worker_of(ARGV[2]))
redis.call('SREM', WORKERS, ARGV[2])
return {'OK'}
