-- Sessions of the shard between two bounds of ZRANGEBYLEX, or the one session.
-- ARGV: lower bound, upper bound, how many at most
local found, page = {}, {}
if path ~= '' then
  found = {path}
else
  found = redis.call('ZRANGEBYLEX', SESSIONS, ARGV[2], ARGV[3], 'LIMIT', 0, ARGV[4])
end
for index, session in ipairs(found) do
  open(session)
  local talk = redis.call('HMGET', TALK, 'version', 'turns', 'usage', 'created', 'updated')
  if talk[1] then
    local later = redis.call('HMGET', SCHEDULED, 'live', 'reminders')
    page[#page + 1] = {
      session, talk[1], talk[2], redis.call('HGET', INBOX, 'live') or 0, talk[3] or '', talk[4], talk[5],
      (tonumber(later[1]) or 0) + (tonumber(later[2]) or 0),
    }
  end
end
return page
