-- with: fence entry bound rest shown
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
local counted, bound = waits.attempts > attempts, bound_by(verbs_of(waits.message_id))
if not (counted or waits.skip or bound.ending) then
  if #waits.awaits > 0 then
    return {'ABSENT'}
  end
  if is_paused(bound) then
    return refused_paused(waits.message_id, bound)
  end
end
local envelope = redis.call('HGET', ENVELOPES, number)
local journal = redis.call('HGETALL', journal_of(waits.message_id))
local promises = {}
for index, id in ipairs(list_of(redis.call('HGET', PROMISED, 'message:' .. waits.message_id))) do
  promises[index] = shown_promise(id)
end
look_at_rest()

if not counted then
  wake()
  waits.starts, waits.attempts, waits.epoch, waits.instance, waits.awaits = starts + 1, attempts + 1, nil, nil, nil
  keep_entry(waits)
end
return accept(envelope, waits.digest, journal, promises, waits.skip and 1 or 0)
