-- What a message comes to. SETTLED orders records that go with time: DEAD and EXPIRED ones are not in it before they are
-- purged. AWAITED holds, by message, the number `SEQUENCE STREAM` under which a redriven copy of such is on its way.
local REDRIVEN = {[FATE_DONE] = true, [FATE_CANCELLED] = true, [FATE_DEAD] = true, [FATE_EXPIRED] = true}

local function replaces(old, new)
  return not old or (REDRIVABLE[old] and REDRIVEN[new])
end

-- The same without what stands under a number.
local function without(found, number)
  local function others(entries)
    local left = {}
    for _, entry in ipairs(entries) do
      if number_of(entry) ~= number then
        left[#left + 1] = entry
      end
    end
    return left
  end
  if #found.live > 0 or #found.scheduled > 0 then
    found.live, found.scheduled = others(found.live), others(found.scheduled)
  end
  return found
end

-- Before anything is written of what was `found_on` a message.
local function look_at_records(found)
  look_at_ages()
  if binds(found.bound) then
    look_at_verbs()
  end
  if #promises_of(found.id) > 0 then
    look_at_promises()
  end
  if found.journaled then
    redis.call('HLEN', journal_of(found.id))
  end
end

-- Before anything is written of a session of which it is not known yet what.
local function look_at_all()
  look_at_inbox()
  look_at_verbs()
  look_at_promises()
  look_at_ages()
  redis.call('HLEN', TALK)
  redis.call('HLEN', RECORDS)
  redis.call('HLEN', AWAITED)
  redis.call('SCARD', JOURNALED)
end

-- A copy that is settled is awaited no more.
local function came(found, number)
  if found.awaited == number then
    redis.call('HDEL', AWAITED, found.id)
  end
end

local function drop_journal(id)
  redis.call('SREM', JOURNALED, id)
  redis.call('DEL', journal_of(id))
end

local function goes_with_time(id, settled)
  redis.call('ZADD', SETTLED, settled, id)
  ages(settled)
end

-- Writes the record, where it may be; where the message waits or is scheduled it keeps its place as a SKIP.
local function settle(found, new, now)
  local id = found.id
  for _, entry in ipairs(found.live) do
    skip(entry)
  end
  for _, entry in ipairs(found.scheduled) do
    call_off(entry)
  end
  if not replaces(found.fate, new.fate) then
    return
  end
  redis.call('HSET', RECORDS, id, string.format('%d ', new.fate) .. now .. ' ' .. new.digest .. ' ' .. new.status)
  if binds(found.bound) then
    unbind(id)
  end
  if REDRIVABLE[new.fate] then
    redis.call('ZREM', SETTLED, id)
    return
  end
  goes_with_time(id, now)
  if found.awaited then
    redis.call('HDEL', AWAITED, id)
  end
  if found.journaled then
    drop_journal(id)
  end
  withdraw_promises(promises_of(id), now)
end
