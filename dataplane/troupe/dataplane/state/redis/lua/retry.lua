-- with: fence stream inbox record rules
-- ARGV: the entry, the envelope
local entry, envelope = cmsgpack.unpack(ARGV[4]), ARGV[5]
local waits = waits_under(number_of(entry))
local refused = fenced(waits)
if refused then
  return refused
end
if is_over(position_of(entry.stream), entry.sequence, waits, entry.attempts) then
  return accept()
end
local fate = fate_of(entry.message_id)
if is_cancelled(entry.message_id, fate) then
  return {'CANCELLED'}
end
if waits and waits.skip then
  return accept()
end
look_at_inbox()
look_at_records()

if waits then
  envelope = redis.call('HGET', ENVELOPES, number_of(waits))
  remove(waits)
end
insert(entry, envelope, true)
comes_again(entry, fate)
return accept()
