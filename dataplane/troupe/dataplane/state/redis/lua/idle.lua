-- with: talk record
-- One step of `forget` on a shard: sessions that were idle for long go, but those with something in inbox or outbox.
-- Returns how many it looked at, and how many of them stay.
-- ARGV: idle since, how many to pass by, how many at most
local sessions = redis.call('ZRANGEBYSCORE', IDLE, '-inf', '(' .. ARGV[2], 'LIMIT', ARGV[3], ARGV[4])
local stay = 0
for _, session in ipairs(sessions) do
  open(session)
  if redis.call('SISMEMBER', BUSY, path) == 1 then
    stay = stay + 1
  else
    drop_talk()
    for _, id in ipairs(redis.call('SMEMBERS', JOURNALED)) do
      -- A dead letter's journal stays with its record.
      if redis.call('HEXISTS', RECORDS, id) == 0 then
        drop_journal(id)
      end
    end
  end
end
return {#sessions, stay}
