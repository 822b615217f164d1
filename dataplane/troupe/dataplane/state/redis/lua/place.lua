-- `troupe.dataplane.state.rules.place`: what a message comes to that waits nowhere under its number, and the fate and
-- status of the record that it leaves, if it does.
local function is_copy(entry, fate)
  if entry.redriven then
    return not REDRIVABLE[fate or 0]
  end
  return fate
end

local function placed(entry, found, busy, now)
  if place(position_of(entry.stream), entry.sequence) == 'SETTLED' then
    return 'SETTLED'
  end
  if entry.skip or entry.instance then
    return entry.skip and 'SKIPPED' or 'NEW'
  end
  if #found.live > 0 or #found.scheduled > 0 or is_copy(entry, found.fate) then
    return 'SKIPPED'
  end
  if found.bound.ending and not found.journaled then
    return 'SKIPPED', FATE_CANCELLED, found.bound.ending.status
  end
  if entry.due > now then
    return 'SCHEDULED'
  end
  if entry.rejection ~= '' and not found.journaled
    and (busy or tonumber(redis.call('HGET', INBOX, 'live') or 0) > 0) then
    return 'SKIPPED', FATE_REJECTED, bytes_of(entry.rejection)
  end
  return 'NEW'
end

-- `envelope`: nil where it stands there. A scheduled message counts from when it was due.
local function take_place(entry, envelope, found, outcome)
  entry.skip = outcome == 'SKIPPED'
  if entry.due > 0 then
    entry.placed, entry.due = entry.due, nil
  end
  insert(entry, envelope, entry.instance ~= nil)
  if entry.redriven then
    wake()
  end
  comes_again(entry, found)
end
