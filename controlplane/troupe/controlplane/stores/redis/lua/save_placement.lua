-- with: term
-- ARGV: term, the version before, the version, the content.
if placement ~= ARGV[2] then
  return {'PLACEMENT', placement}
end
redis.call('SET', PLACEMENT, ARGV[4])
redis.call('HSET', FLEET, 'placement', ARGV[3])
return {'OK'}
