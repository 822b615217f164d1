-- with: entry bound inbox
-- Messages that wait or are scheduled, of the shard, between two bounds of ZRANGEBYLEX.
-- ARGV: lower bound, upper bound, how many at most
local page = {}
for _, member in ipairs(redis.call('ZRANGEBYLEX', WAITING, ARGV[2], ARGV[3], 'LIMIT', 0, ARGV[4])) do
  local session, id = string.match(member, '^(%Z*)%z(.*)$')
  open(session)
  local entry, fate = waiting(id)[1], FATE_WAITING
  local bound = bound_by(verbs_of(id))
  if not entry then
    entry, fate = scheduled(id)[1], FATE_SCHEDULED
  elseif is_paused(bound) and not bound.ending then
    fate = FATE_PAUSED
  end
  page[#page + 1] = {session, cmsgpack.pack(entry), fate}
end
return page
