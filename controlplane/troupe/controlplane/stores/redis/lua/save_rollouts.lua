-- with: term
-- ARGV: term, then for each revision its id, its rollout, whether that is complete.
for each = 2, #ARGV, 3 do
  redis.call('HLEN', revision_of(ARGV[each]))
end
for each = 2, #ARGV, 3 do
  roll(ARGV[each], ARGV[each + 1], ARGV[each + 2])
end
return {'OK'}
