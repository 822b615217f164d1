-- with: inbox record outbox
-- ARGV: how many ids of records at most
local limit = tonumber(ARGV[2])
local entries, recent, cancelled, sent = {}, {}, {}, {}

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

for _, id in ipairs(redis.call('HKEYS', VERBS)) do
  if tombstone_of(id) and not is_final(fate_of(id)) then
    cancelled[#cancelled + 1] = id
  end
end

for _, message in ipairs(outbox()) do
  sent[#sent + 1] = {message.target, message.sequence, message.stream, message.envelope}
end

local talk, history = redis.call('HGETALL', TALK), redis.call('LRANGE', HISTORY, 0, -1)
return {talk, history, entries, recent, cancelled, redis.call('SMEMBERS', JOURNALED), sent}
