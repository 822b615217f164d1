-- Puts a message whose attempt ended at the head of the inbox, with the envelope that it has where it waits already.
local function put_first(entry, envelope, waits, found)
  if waits then
    remove(waits, true)
  elseif found.stands then
    unschedule(found.stands, true)
  end
  insert(entry, not waits and envelope or nil, true)
  awaits(entry)
  comes_again(entry, found)
end
