-- What a turn of the script `commit` leaves when it ends DONE, by the arguments of that script. `fields` are more that
-- are to be set in TALK.
local changes, now = ARGV[13], ARGV[9]

local function is_occurrence(stream)
  return string.sub(stream, 1, 9) == 'reminder/'
end

local function look_at_turn()
  redis.call('LLEN', HISTORY)
  redis.call('ZCARD', IDLE)
  redis.call('ZCARD', SESSIONS)
  redis.call('HLEN', OUTBOX)
  redis.call('SCARD', BUSY)
end

local function changed(what)
  return string.find(changes, what, 1, true)
end

local function save(version, turns, fields)
  local function set(field, value)
    fields[#fields + 1], fields[#fields + 2] = field, value
  end
  set('version', version)
  set('turns', turns)
  set('updated', now)
  if version == 1 then
    set('created', now)
    redis.call('ZADD', SESSIONS, 0, path)
  end
  if changed('s') then
    set('state', ARGV[14])
  end
  if changed('u') then
    set('usage', ARGV[16])
  end
  if changed('h') then
    redis.call('RPUSH', HISTORY, string.format('%.0f ', version) .. ARGV[15])
  end
  if changed('n') then
    set('covers', redis.call('LLEN', HISTORY))
  end
  redis.call('HSET', TALK, unpack(fields))
  redis.call('ZADD', IDLE, ARGV[17], path)
end

-- From this argument on: target, sequence, stream and envelope of each message. OUTBOX holds for each number, `SEQUENCE
-- STREAM`, what no broker has confirmed yet; its place is in the order of sending. How far each stream to a target has
-- come stands in TALK: it is among the fields that `save` is to set.
local function send_from(first, fields)
  if first > #ARGV then
    return
  end
  local last, unsent = tonumber(redis.call('HGET', OUTBOX, 'last') or 0), {}
  for index = first, #ARGV, 4 do
    local target, sequence, stream = ARGV[index], tonumber(ARGV[index + 1]), ARGV[index + 2]
    last = last + 1
    unsent[#unsent + 1], unsent[#unsent + 2] = 'number:' .. ARGV[index + 1] .. ' ' .. stream, cmsgpack.pack({
      place = last, target = target, envelope = ARGV[index + 3], sequence = sequence, stream = stream,
    })
    fields[#fields + 1], fields[#fields + 2] =
      'sent:' .. target, cmsgpack.pack({sequence = sequence, stream = stream, at = tonumber(now)})
  end
  redis.call('HSET', OUTBOX, 'last', last, unpack(unsent))
  redis.call('SADD', BUSY, path)
end
