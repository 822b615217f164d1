-- ARGV: message id
return redis.call('HGET', RECORDS, ARGV[2])
