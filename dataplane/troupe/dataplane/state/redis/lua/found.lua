-- What there is on a message: `live` where it waits, foremost first, and `scheduled`, both without SKIPs; `stands` what
-- is scheduled under the number; `awaited` the number under which a redriven copy is on its way.
local function found_on(id, number)
  local inbox = redis.call('HMGET', INBOX, 'message:' .. id, 'rest')
  local later = redis.call('HMGET', SCHEDULED, 'message:' .. id, 'number:' .. (number or ''))
  return {
    id = id,
    live = foremost_first(entries_of(INBOX, list_of(inbox[1]))),
    rests = inbox[2],
    scheduled = entries_of(SCHEDULED, list_of(later[1])),
    stands = entry_of(later[2]),
    fate = fate_of(id),
    awaited = redis.call('HGET', AWAITED, id),
    bound = bound_by(verbs_of(id)),
    journaled = redis.call('SISMEMBER', JOURNALED, id) == 1,
  }
end

local function look_at_ages()
  redis.call('ZCARD', SETTLED)
  redis.call('ZCARD', OLD)
end

local function await(id, number)
  redis.call('HSET', AWAITED, id, number)
  redis.call('ZREM', SETTLED, id)
end

-- What was placed may be a redriven copy that nobody was told of.
local function comes_again(entry, found)
  if entry.redriven and not entry.skip and REDRIVABLE[found.fate or 0] and not found.awaited then
    await(entry.message_id, number_of(entry))
  end
end
