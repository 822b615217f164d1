-- with: bound recorded
-- ARGV: how many ids of records at most
local limit = tonumber(ARGV[2])
local entries, recent, sent = {}, {}, {}

local kept = redis.call('HGETALL', INBOX)
for index = 1, #kept, 2 do
  if string.sub(kept[index], 1, 7) == 'number:' then
    entries[#entries + 1] = kept[index + 1]
  end
end

if redis.call('HLEN', RECORDS) <= limit then
  recent = redis.call('HKEYS', RECORDS)
else
  local cursor, seen = '0', {}
  repeat
    local page = redis.call('HSCAN', RECORDS, cursor, 'COUNT', limit)
    cursor = page[1]
    for index = 1, #page[2], 2 do
      local id = page[2][index]
      if not seen[id] and #recent < limit then
        seen[id], recent[#recent + 1] = true, id
      end
    end
  until cursor == '0' or #recent == limit
end

local outbox, messages = redis.call('HGETALL', OUTBOX), {}
for index = 1, #outbox, 2 do
  if outbox[index] ~= 'last' then
    messages[#messages + 1] = cmsgpack.unpack(outbox[index + 1])
  end
end
table.sort(messages, function(a, b) return a.place < b.place end)
for _, message in ipairs(messages) do
  sent[#sent + 1] = {message.target, message.sequence, message.stream, message.envelope}
end

local talk = redis.call('HGETALL', TALK)
local history = redis.call('LRANGE', HISTORY, redis.call('HGET', TALK, 'covers') or 0, -1)
return {talk, history, entries, recent, recorded(), redis.call('SMEMBERS', JOURNALED), sent}
