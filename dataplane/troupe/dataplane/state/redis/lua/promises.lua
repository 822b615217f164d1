-- with: shown
-- Promises of the shard between two bounds of ZRANGEBYLEX.
-- ARGV: whether settled ones too, lower bound, upper bound, how many at most
local page = {}
for _, member in ipairs(redis.call('ZRANGEBYLEX', ARGV[2] == '1' and ASKED or OPEN, ARGV[3], ARGV[4], 'LIMIT', 0, ARGV[5])) do
  local session, id = string.match(member, '^(%Z*)%z(.*)$')
  open(session)
  page[#page + 1] = {session, shown_promise(id)}
end
return page
