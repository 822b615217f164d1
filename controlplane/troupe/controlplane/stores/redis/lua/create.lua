-- A fleet of ARGV[1] shards where there is none. Answers how many it has.
if redis.call('HSETNX', KEYS[1], 'shards', ARGV[1]) == 1 then
  redis.call('HSET', KEYS[1], 'term', '0', 'holder', '', 'address', '', 'renewals', '0', 'generation', '0',
    'revision', '', 'placement', '0')
end
return redis.call('HGET', KEYS[1], 'shards')
