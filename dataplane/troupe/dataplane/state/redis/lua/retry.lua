-- with: clock fence stream entry bound fate over rest leave inbox found schedule verbs shown promise record first
-- ARGV: the entry, the envelope
local entry = entry_of(ARGV[4])
local number, id = number_of(entry), entry.message_id
local waits = waits_under(number)
local refused = fenced(waits)
if refused then
  return refused
end
if is_over(position_of(entry.stream), entry.sequence, waits, entry.attempts) then
  return accept()
end
local found = found_on(id, number)
refused = refused_cancelled(id, found.bound, found.fate)
if refused then
  return refused
end
if waits and waits.skip then
  return accept()
end
look_at_inbox()
look_at_records(found)

put_first(entry, ARGV[5], waits, found)
return accept()
