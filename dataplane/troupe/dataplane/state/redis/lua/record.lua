-- How messages ended: `FATE SETTLED DIGEST STATUS`. SETTLED orders those that go with time: DEAD and EXPIRED ones are
-- not in it before they are purged. AWAITED holds, by message, the number `SEQUENCE STREAM` under which a redriven copy
-- of what ended so is on its way.
local REDRIVABLE = {[FATE_DEAD] = true, [FATE_EXPIRED] = true}
local REDRIVEN = {[FATE_DONE] = true, [FATE_CANCELLED] = true, [FATE_DEAD] = true, [FATE_EXPIRED] = true}

local function fate_of(id)
  local kept = redis.call('HGET', RECORDS, id)
  return kept and tonumber(string.match(kept, '^%d+'))
end

local function is_final(fate)
  return fate and not REDRIVABLE[fate]
end

local function replaces(old, new)
  return not old or (REDRIVABLE[old] and REDRIVEN[new])
end

-- The first CANCEL of the message that is to be obeyed.
local function tombstone_of(id)
  local kept = redis.call('HGET', VERBS, id)
  for _, verb in ipairs(kept and cmsgpack.unpack(kept) or {}) do
    if verb.answer == VERB_ANSWER_APPLIED or verb.answer == VERB_ANSWER_PENDING then
      return verb
    end
  end
end

local function look_at_records()
  redis.call('HLEN', RECORDS)
  redis.call('ZCARD', SETTLED)
  redis.call('ZCARD', DUE)
  redis.call('SCARD', JOURNALED)
  redis.call('HLEN', AWAITED)
end

local function await(id, number)
  redis.call('HSET', AWAITED, id, number)
  redis.call('ZREM', SETTLED, id)
end

-- What was placed may be a redriven copy that nobody was told of.
local function comes_again(entry, fate)
  if entry.redriven and not entry.skip and REDRIVABLE[fate or 0]
    and redis.call('HEXISTS', AWAITED, entry.message_id) == 0 then
    await(entry.message_id, number_of(entry))
  end
end

-- A copy that is settled is awaited no more.
local function came(id, number)
  if redis.call('HGET', AWAITED, id) == number then
    redis.call('HDEL', AWAITED, id)
  end
end

local function drop_journal(id)
  if redis.call('SREM', JOURNALED, id) == 1 then
    redis.call('DEL', journal_of(id))
  end
end

local function goes_with_time(id, settled)
  redis.call('ZADD', SETTLED, settled, id)
  redis.call('ZADD', DUE, 'LT', settled, path)
end

-- Writes the record, where it may be; `live`, what waits under this id, keeps its place as SKIPs.
local function settle(id, live, old, new, now)
  for _, entry in ipairs(live) do
    skip(entry)
  end
  if replaces(old, new.fate) then
    redis.call('HSET', RECORDS, id, string.format('%d ', new.fate) .. now .. ' ' .. new.digest .. ' ' .. new.status)
    if REDRIVABLE[new.fate] then
      redis.call('ZREM', SETTLED, id)
    else
      redis.call('HDEL', AWAITED, id)
      goes_with_time(id, now)
      drop_journal(id)
    end
  end
end
