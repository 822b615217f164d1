-- The owner, ARGV[2] (epoch) and ARGV[3] (instance), and the shard's fence. `rules.raises_fence` says the same.
local owner = {epoch = tonumber(ARGV[2]), instance = ARGV[3]}
local fence = {epoch = 0, instance = ''}
do
  local kept = redis.call('GET', KEYS[1])
  if kept then
    local space = string.find(kept, ' ', 1, true)
    fence = {epoch = tonumber(string.sub(kept, 1, space - 1)), instance = string.sub(kept, space + 1)}
  end
end

-- The refusal, if it is one. `waits`: of a turn's write, what waits under its number.
local function fenced(waits)
  if owner.epoch > fence.epoch or (owner.epoch == fence.epoch and owner.instance == fence.instance) then
    return nil
  end
  if waits and waits.epoch == owner.epoch and waits.instance == owner.instance then
    return nil
  end
  return {'FENCED', fence.epoch}
end

-- The answer of a script that was carried out: from then on the owner before is refused.
local function accept(...)
  if owner.epoch > fence.epoch then
    redis.call('SET', KEYS[1], ARGV[2] .. ' ' .. ARGV[3])
  end
  return {'OK', ...}
end
