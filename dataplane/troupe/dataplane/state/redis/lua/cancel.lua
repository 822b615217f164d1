-- with: inbox record
-- ARGV: message id, verb id, status, now
local id, verb_id, status, now = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local kept = redis.call('HGET', VERBS, id)
local verbs = kept and cmsgpack.unpack(kept) or {}
for _, verb in ipairs(verbs) do
  if verb.id == verb_id then
    return verb.answer
  end
end
local live, fate = waiting(id), fate_of(id)
local journaled = redis.call('SISMEMBER', JOURNALED, id) == 1
local answer, at_once = VERB_ANSWER_PENDING, false
if #live > 0 then
  answer, at_once = VERB_ANSWER_APPLIED, not journaled
  for _, entry in ipairs(live) do
    at_once = at_once and entry.starts == 0 and not entry.instance
  end
elseif fate and redis.call('HEXISTS', AWAITED, id) == 0 then
  answer = VERB_ANSWER_TOO_LATE
elseif journaled then
  answer = VERB_ANSWER_APPLIED
end
look_at_records()

verbs[#verbs + 1] = {id = verb_id, answer = answer, status = status, recorded = tonumber(now)}
redis.call('HSET', VERBS, id, cmsgpack.pack(verbs))
redis.call('ZADD', DUE, 'LT', now, path)
if at_once then
  settle(id, live, fate, {fate = FATE_CANCELLED, digest = live[1].digest, status = status}, now)
end
return answer
