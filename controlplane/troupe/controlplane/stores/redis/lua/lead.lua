-- ARGV: the record as it was seen (term, holder, address, renewals), and what becomes of it.
if term ~= ARGV[1] or holder ~= ARGV[2] or address ~= ARGV[3] or renewals ~= ARGV[4] then
  return {'CHANGED', term, holder, address, renewals}
end
if term ~= ARGV[5] then
  redis.call('HSET', FLEET, 'writes', '0')
end
redis.call('HSET', FLEET, 'term', ARGV[5], 'holder', ARGV[6], 'address', ARGV[7], 'renewals', ARGV[8])
return {'OK'}
