-- with: clock entry bound fate rest leave inbox found schedule verbs promise record
-- One step of `forget` on a shard: what is older than `old` goes from a few sessions. Returns how many it looked at.
-- ARGV: old, sessions at most, records of one session at most
local old, limit = tonumber(ARGV[2]), tonumber(ARGV[4])

-- The least of `due` and a time; what stays past its age is looked at the next time that things are forgotten.
local function sooner(due, time)
  time = math.max(time, old)
  return due and math.min(due, time) or time
end

local function forget_records(due)
  local outdated = redis.call('ZRANGEBYSCORE', SETTLED, '-inf', '(' .. ARGV[2], 'LIMIT', 0, limit)
  for _, id in ipairs(outdated) do
    redis.call('HDEL', RECORDS, id)
    redis.call('ZREM', SETTLED, id)
    drop_journal(id)
    drop_promises(id)
  end
  if #outdated == limit then
    return '-inf'
  end
  local next = redis.call('ZRANGE', SETTLED, 0, 0, 'WITHSCORES')
  return next[2] and sooner(due, tonumber(next[2])) or due
end

local function forget_verbs(due)
  local kept = redis.call('HGETALL', VERBS)
  for index = 1, #kept, 2 do
    local id, verbs, younger = kept[index], cmsgpack.unpack(kept[index + 1]), {}
    local live = #waiting(id) > 0 or #scheduled(id) > 0
    for _, verb in ipairs(verbs) do
      if live or verb.recorded >= old then
        younger[#younger + 1], due = verb, sooner(due, verb.recorded)
      end
    end
    if #younger < #verbs then
      keep_verbs(id, younger)
    end
    if #younger == 0 then
      redis.call('HDEL', VERBS, id)
    end
  end
  return due
end

-- The streams that something in a hash of numbers belongs to.
local function streams_in(key)
  local streams = {}
  for _, field in ipairs(redis.call('HKEYS', key)) do
    local stream = string.match(field, '^number:%d+ (.*)$')
    if stream then
      streams[stream] = true
    end
  end
  return streams
end

local function forget_streams(due)
  local coming, later, going = streams_in(INBOX), streams_in(SCHEDULED), streams_in(OUTBOX)
  for _, reminder in ipairs(reminders()) do
    later[reminder.stream] = true
  end
  for _, field in ipairs(redis.call('HKEYS', TALK)) do
    local kind, name = string.match(field, '^(%l+):(.*)$')
    if kind then
      local kept = cmsgpack.unpack(redis.call('HGET', TALK, field))
      local touched, used = kept.touched, coming[name] or later[name]
      if kind == 'sent' then
        touched, used = kept.at, going[kept.stream]
      end
      if used or touched >= old then
        due = sooner(due, touched)
      else
        redis.call('HDEL', TALK, field)
      end
    end
  end
  return due
end

local sessions = redis.call('ZRANGEBYSCORE', OLD, '-inf', '(' .. ARGV[2], 'LIMIT', 0, ARGV[3])
for _, session in ipairs(sessions) do
  open(session)
  look_at_all()
end
for _, session in ipairs(sessions) do
  open(session)
  local due = forget_records(forget_streams(forget_verbs(nil)))
  if due then
    redis.call('ZADD', OLD, type(due) == 'string' and due or exactly(due), path)
  else
    redis.call('ZREM', OLD, path)
  end
end
return #sessions
