-- with: clock fence stream entry bound fate over rest leave inbox found schedule verbs shown promise record first
-- ARGV: the entry, the envelope, whether its turn runs on where it need not wait
local entry, runs = entry_of(ARGV[4]), ARGV[6] == '1'
local number, id = number_of(entry), entry.message_id
local waits = waits_under(number)
local refused = fenced(waits)
if refused then
  return refused
end
if place(position_of(entry.stream), entry.sequence) == 'SETTLED' then
  return accept(1)
end
if runs and waits and waits.instance and waits.attempts == entry.attempts + 1 then
  return accept(0)
end
if waits and (waits.skip or waits.attempts > entry.attempts) then
  return accept(1)
end
local found = found_on(id, number)
refused = refused_cancelled(id, found.bound, found.fate)
if refused then
  return refused
end
local must_wait = #entry.awaits > 0 or is_paused(found.bound)
for _, promise in ipairs(entry.awaits) do
  must_wait = must_wait and is_open(promise_of(promise))
end
if not must_wait then
  if runs and waits and waits.message_id == id and has_ended(waits, entry.attempts) then
    look_at_rest()
    wake()
    waits.attempts, waits.epoch, waits.instance = waits.attempts + 1, owner.epoch, owner.instance
    waits.awaits, waits.suspended = nil, nil
    keep_entry(waits)
  end
  return accept(0)
end
look_at_inbox()
look_at_records(found)

if not has_ended(waits, entry.attempts) then
  put_first(entry, ARGV[5], waits, found)
elseif waits.message_id ~= id or table.concat(entry.awaits, ' ') ~= table.concat(waits.awaits, ' ') then
  return accept(1)
end
rest()
return accept(1)
