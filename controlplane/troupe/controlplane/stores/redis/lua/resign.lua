-- ARGV: the term and the holder that resigns.
if term == ARGV[1] and holder == ARGV[2] then
  redis.call('HSET', FLEET, 'holder', '', 'address', '', 'renewals', '0')
end
return {'OK'}
