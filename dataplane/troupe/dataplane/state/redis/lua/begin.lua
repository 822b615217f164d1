-- with: fence inbox
-- ARGV: sequence, stream, attempts and starts as the caller knows them
local attempts, starts = tonumber(ARGV[6]), tonumber(ARGV[7])
local refused = fenced()
if refused then
  return refused
end
local number = ARGV[4] .. ' ' .. ARGV[5]
local waits = waits_under(number)
if not waits then
  return {'ABSENT'}
end
if waits.instance and (waits.epoch ~= owner.epoch or waits.instance ~= owner.instance) then
  return {'MARKED', waits.message_id, waits.instance, waits.epoch}
end
local envelope = redis.call('HGET', ENVELOPES, number)
local journal = redis.call('HGETALL', journal_of(waits.message_id))
if waits.attempts <= attempts then
  waits.starts, waits.attempts, waits.epoch, waits.instance = starts + 1, attempts + 1, nil, nil
  keep_entry(waits)
end
return accept(envelope, waits.digest, journal)
