-- with: term
-- ARGV: term, generation and revision that it follows; up to which generation old ones go; what becomes of the rollout
-- before, and whether that is complete ('' where it stays as it is); the revision's id and generation, whether it is
-- complete, then the fields of its hash.
local its_id, its_generation = ARGV[7], ARGV[8]
if generation ~= ARGV[2] or revision ~= ARGV[3] then
  return {'HEAD', term, generation, revision}
end
redis.call('HLEN', revision_of(its_id))
redis.call('HLEN', revision_of(revision))
if ARGV[6] ~= '' then
  roll(revision, ARGV[5], ARGV[6])
end
for field = 10, #ARGV, 2 do
  redis.call('HSET', revision_of(its_id), ARGV[field], ARGV[field + 1])
end
redis.call('ZADD', GENERATIONS, its_generation, its_id)
if ARGV[9] == '1' then
  redis.call('ZADD', COMPLETE, its_generation, its_id)
end
redis.call('HSET', FLEET, 'generation', its_generation, 'revision', its_id)
local kept = redis.call('ZREVRANGE', COMPLETE, 0, 0)[1]
for _, old in ipairs(redis.call('ZRANGEBYSCORE', GENERATIONS, '-inf', ARGV[4])) do
  if old ~= kept then
    redis.call('DEL', revision_of(old))
    redis.call('ZREM', GENERATIONS, old)
    redis.call('ZREM', COMPLETE, old)
  end
end
return {'OK'}
