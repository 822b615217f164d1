-- From the newest on, those below the bound ARGV[1], ARGV[2] at most.
local page = {'OK'}
for _, id in ipairs(redis.call('ZREVRANGEBYSCORE', GENERATIONS, ARGV[1], '-inf', 'LIMIT', 0, ARGV[2])) do
  page[#page + 1] = about(id)
end
return page
