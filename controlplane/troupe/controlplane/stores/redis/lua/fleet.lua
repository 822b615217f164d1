-- What all other scripts begin with. KEYS[1] is the fleet's record, `PREFIX{controlplane}:fleet`; all other keys begin
-- with what stands before `fleet`, so they are in the same hash slot.
local FLEET, base = KEYS[1], string.sub(KEYS[1], 1, -6)
local GENERATIONS, COMPLETE = base .. 'generations', base .. 'complete'
local PLACEMENT, WORKERS = base .. 'placement', base .. 'workers'

local function revision_of(id)
  return base .. 'revision:' .. id
end

local function worker_of(id)
  return base .. 'worker:' .. id
end

-- Each fails where the key holds something else. A script that fails is not rolled back, so all of them come before
-- the first write.
redis.call('ZCARD', GENERATIONS)
redis.call('ZCARD', COMPLETE)
redis.call('STRLEN', PLACEMENT)
redis.call('SCARD', WORKERS)
local fleet = redis.call('HMGET', FLEET, 'term', 'holder', 'address', 'renewals', 'generation', 'revision', 'placement')
local term, holder, address, renewals, generation, revision, placement = unpack(fleet)
if not (term and holder and address and renewals and generation and revision and placement) then
  return {'GONE'}
end

-- The parts of a revision beside its config.
local function about(id)
  return redis.call('HMGET', revision_of(id), 'revision_id', 'parent_revision_id', 'generation', 'term',
    'content_hash', 'created_at', 'resource_count', 'rollout')
end

-- Replace the rollout of a revision that is kept; `complete` is '1' or '0'.
local function roll(id, rollout, complete)
  local its_generation = redis.call('HGET', revision_of(id), 'generation')
  if not its_generation then
    return
  end
  redis.call('HSET', revision_of(id), 'rollout', rollout)
  if complete == '1' then
    redis.call('ZADD', COMPLETE, its_generation, id)
  else
    redis.call('ZREM', COMPLETE, id)
  end
end
