-- What turns ask for from outside. PROMISED holds each promise, its value and its schema, and for each message the ids
-- of its promises, oldest first. OPEN and ASKED, those that are open and all, are ordered by session and id, like
-- WAITING. `troupe.dataplane.state.promises` says the same.
local TOKENS = 8

local function promise_of(id)
  local kept = redis.call('HGET', PROMISED, 'promise:' .. id)
  return kept and cmsgpack.unpack(kept)
end

local function promises_of(message_id)
  return list_of(redis.call('HGET', PROMISED, 'message:' .. message_id))
end

local function is_open(promise)
  return promise and not promise.state
end

local function look_at_promises()
  redis.call('HLEN', PROMISED)
  redis.call('ZCARD', OPEN)
  redis.call('ZCARD', ASKED)
  redis.call('ZCARD', SCHEDULE)
  redis.call('SCARD', BUSY)
  redis.call('SCARD', BOUND)
  redis.call('SCARD', UNOBEYED)
end

local function keep_promise(promise)
  redis.call('HSET', PROMISED, 'promise:' .. promise.id, cmsgpack.pack(promise))
end

-- One that is there already stays as it is, but that it has one more token.
local function make_promise(promise, schema)
  local id, old = promise.id, promise_of(promise.id)
  local tokens = old and old.tokens or {}
  for _, token in ipairs(promise.tokens or {}) do
    local known = false
    for _, other in ipairs(tokens) do
      known = known or other == token
    end
    if not known or not old then
      tokens[#tokens + 1] = token
    end
  end
  while #tokens > TOKENS do
    table.remove(tokens, 1)
  end
  local kept = old or promise
  kept.tokens = tokens
  keep_promise(kept)
  if old then
    return
  end
  local ids = promises_of(promise.message_id)
  ids[#ids + 1] = id
  redis.call('HSET', PROMISED, 'message:' .. promise.message_id, cmsgpack.pack(ids), 'schema:' .. id, schema)
  redis.call('ZADD', OPEN, 0, path .. '\0' .. id)
  redis.call('ZADD', ASKED, 0, path .. '\0' .. id)
  if (promise.expires or 0) > 0 then
    is_due_at(promise.expires, 'promise', id)
  end
end

-- It has come to its end: what waits for it goes on.
local function end_promise(promise, state, settled)
  promise.state, promise.settled = state, settled
  keep_promise(promise)
  redis.call('ZREM', OPEN, path .. '\0' .. promise.id)
  is_due_no_more('promise', promise.id)
  for _, number in ipairs(list_of(redis.call('HGET', INBOX, 'awaits:' .. promise.id))) do
    local entry = waits_under(number)
    for _, awaited in ipairs(entry and entry.awaits or {}) do
      if awaited == promise.id then
        entry.awaits = nil
        keep_entry(entry)
      end
    end
  end
  redis.call('HDEL', INBOX, 'awaits:' .. promise.id)
  wake()
end

-- What waits for any of these. INBOX holds for each promise the numbers.
local function awaits(entry)
  for _, id in ipairs(entry.awaits) do
    local field = 'awaits:' .. id
    local numbers = list_of(redis.call('HGET', INBOX, field))
    numbers[#numbers + 1] = number_of(entry)
    redis.call('HSET', INBOX, field, cmsgpack.pack(numbers))
  end
end

local function expire_promise(promise)
  end_promise(promise, PROMISE_STATE_EXPIRED, promise.expires)
end

local function withdraw_promises(ids, now)
  for _, id in ipairs(ids) do
    local promise = promise_of(id)
    if is_open(promise) then
      end_promise(promise, PROMISE_STATE_WITHDRAWN, tonumber(now))
    end
  end
end

-- Those of these ids that are one message's become another's.
local function move_promises(from, ids, to)
  local moves, left, moved = {}, {}, {}
  for _, id in ipairs(ids) do
    moves[id] = true
  end
  for _, id in ipairs(promises_of(from)) do
    if moves[id] then
      local promise = promise_of(id)
      promise.message_id = to
      keep_promise(promise)
      moved[#moved + 1] = id
    else
      left[#left + 1] = id
    end
  end
  if #moved > 0 then
    redis.call('HSET', PROMISED, 'message:' .. from, cmsgpack.pack(left), 'message:' .. to, cmsgpack.pack(moved))
  end
end

local function drop_promises(message_id)
  for _, id in ipairs(promises_of(message_id)) do
    redis.call('HDEL', PROMISED, 'promise:' .. id, 'schema:' .. id, 'value:' .. id)
    redis.call('ZREM', OPEN, path .. '\0' .. id)
    redis.call('ZREM', ASKED, path .. '\0' .. id)
    is_due_no_more('promise', id)
  end
  redis.call('HDEL', PROMISED, 'message:' .. message_id)
end
