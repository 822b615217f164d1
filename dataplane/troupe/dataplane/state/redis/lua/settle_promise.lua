-- with: clock entry rest leave inbox schedule promise
-- ARGV: promise id, settlement id, state, value, who
local id, settlement_id, state, value, by = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local ENDED = {
  [PROMISE_STATE_RESOLVED] = SETTLEMENT_ANSWER_DUPLICATE, [PROMISE_STATE_REJECTED] = SETTLEMENT_ANSWER_DUPLICATE,
  [PROMISE_STATE_EXPIRED] = SETTLEMENT_ANSWER_EXPIRED, [PROMISE_STATE_WITHDRAWN] = SETTLEMENT_ANSWER_WITHDRAWN,
}
local promise, now = promise_of(id), clock()
if not promise then
  return nil
end
if not is_open(promise) then
  local answer = ENDED[promise.state]
  if answer == SETTLEMENT_ANSWER_DUPLICATE and promise.settlement_id == settlement_id then
    answer = SETTLEMENT_ANSWER_APPLIED
  end
  return answer
end
look_at_inbox()
look_at_promises()

local expires = promise.expires or 0
if expires > 0 and expires <= now then
  expire_promise(promise)
  return SETTLEMENT_ANSWER_EXPIRED
end
promise.settlement_id, promise.settled_by = settlement_id, by
redis.call('HSET', PROMISED, 'value:' .. id, value)
end_promise(promise, state, now)
return SETTLEMENT_ANSWER_APPLIED
