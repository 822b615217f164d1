-- with: clock entry fate rest leave inbox found schedule promise talk record
-- One step of `forget` on a shard: sessions whose time is over go, but those with something in inbox, outbox or
-- schedule. Returns how many it looked at, and how many of them stay.
-- ARGV: now, how many to pass by, how many at most
local sessions = redis.call('ZRANGEBYSCORE', IDLE, '-inf', '(' .. ARGV[2], 'LIMIT', ARGV[3], ARGV[4])
for _, session in ipairs(sessions) do
  open(session)
  look_at_talk()
  look_at_promises()
  redis.call('SCARD', JOURNALED)
  redis.call('HLEN', RECORDS)
end
local stay = 0
for _, session in ipairs(sessions) do
  open(session)
  if redis.call('EXISTS', INBOX, OUTBOX, SCHEDULED) > 0 then
    stay = stay + 1
  else
    drop_talk()
    -- A dead letter's journal and promises stay with its record.
    for _, id in ipairs(redis.call('SMEMBERS', JOURNALED)) do
      if redis.call('HEXISTS', RECORDS, id) == 0 then
        drop_journal(id)
      end
    end
    for _, field in ipairs(redis.call('HKEYS', PROMISED)) do
      local id = string.match(field, '^message:(.*)$')
      if id and redis.call('HEXISTS', RECORDS, id) == 0 then
        drop_promises(id)
      end
    end
  end
end
return {#sessions, stay}
