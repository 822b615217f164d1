-- What was sent and no broker has confirmed: for each number, `SEQUENCE STREAM`, the message; its place is in the
-- order of sending. How far each stream to a target has come stands in TALK.
local function send(target, sequence, stream, envelope, now)
  local message = {place = redis.call('HINCRBY', OUTBOX, 'last', 1), target = target, envelope = envelope}
  message.sequence, message.stream = sequence, stream
  redis.call('HSET', OUTBOX, string.format('number:%.0f ', sequence) .. stream, cmsgpack.pack(message))
  redis.call('HSET', TALK, 'sent:' .. target, cmsgpack.pack({sequence = sequence, stream = stream, at = tonumber(now)}))
  redis.call('ZADD', DUE, 'LT', now, path)
  redis.call('SADD', BUSY, path)
end

-- In the order of sending.
local function outbox()
  local messages, kept = {}, redis.call('HGETALL', OUTBOX)
  for index = 1, #kept, 2 do
    if kept[index] ~= 'last' then
      messages[#messages + 1] = cmsgpack.unpack(kept[index + 1])
    end
  end
  table.sort(messages, function(a, b) return a.place < b.place end)
  return messages
end
