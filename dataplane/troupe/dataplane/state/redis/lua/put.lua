-- with: fence stream inbox record rules
-- ARGV: the entry, the envelope, when it was placed
local entry, envelope, now = cmsgpack.unpack(ARGV[4]), ARGV[5], ARGV[6]
local refused = fenced()
if refused then
  return refused
end
local number, id = number_of(entry), entry.message_id
local waits, live, fate = waits_under(number), waiting(id), fate_of(id)
if place(position_of(entry.stream), entry.sequence) == 'SETTLED' then
  return accept('SETTLED')
end
if waits then
  if marks(entry, waits) then
    waits.epoch, waits.instance = entry.epoch, entry.instance
    keep_entry(waits)
  end
  return accept('PRESENT')
end
local tombstone
if redis.call('SISMEMBER', JOURNALED, id) == 0 then
  tombstone = tombstone_of(id)
end
look_at_inbox()
look_at_records()

local runs = entry.instance ~= nil
if entry.skip or (not runs and (#live > 0 or is_copy(entry, fate))) then
  entry.skip = true
  insert(entry, envelope, runs)
  return accept('SKIPPED')
end
if tombstone and not runs then
  entry.skip = true
  insert(entry, envelope, false)
  settle(id, live, fate, {fate = FATE_CANCELLED, digest = entry.digest, status = tombstone.status}, now)
  return accept('SKIPPED')
end
insert(entry, envelope, runs)
comes_again(entry, fate)
return accept('NEW')
