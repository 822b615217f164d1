-- ARGV[1] is the writer's term and how many writes it has begun in its life, as TERM:COUNT. A call that was given up may
-- arrive when later ones have been carried out: it changes nothing. The count is the one write before a script's checks:
-- one that was used up by a call that fails is missed by nobody.
local its_term, count = string.match(ARGV[1], '^(%d+):(%d+)$')
if term ~= its_term then
  return {'TERM', term}
end
if tonumber(count) <= tonumber(redis.call('HGET', FLEET, 'writes') or '0') then
  return {'LATE'}
end
redis.call('HSET', FLEET, 'writes', count)
