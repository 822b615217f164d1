-- with: entry inbox fate promise shown
-- What a RESTART needs of a message that waits, or is a dead letter.
-- ARGV: message id
local id = ARGV[2]
local waits, fate = waiting(id)[1], fate_of(id)
if not waits and (not REDRIVABLE[fate or 0] or redis.call('HEXISTS', AWAITED, id) == 1) then
  return nil
end
local digest = waits and waits.digest or string.match(redis.call('HGET', RECORDS, id), '^%d+ %S+ (%x*) ')
local promises = {}
for index, promise in ipairs(promises_of(id)) do
  promises[index] = shown_promise(promise)
end
return {digest, waits and redis.call('HGET', ENVELOPES, number_of(waits)) or '', redis.call('HGETALL', journal_of(id)),
  promises, not waits and redis.call('ZSCORE', SETTLED, id) and 1 or 0}
