-- Whether a session is taken up: BUSY are those that are to be.
local function look_at_rest()
  redis.call('SCARD', BUSY)
  redis.call('SCARD', BOUND)
  redis.call('SCARD', UNOBEYED)
end

-- What comes next is suspended: the session is not taken up before something happens.
local function rest()
  redis.call('HSET', INBOX, 'rest', 1)
  redis.call('SREM', UNOBEYED, path)
  if redis.call('EXISTS', OUTBOX) == 0 then
    redis.call('SREM', BUSY, path)
  end
end

-- It begins with a write that Redis refuses when its memory is full, as all that may need more do: it looks at the first.
local function wake()
  if redis.call('HEXISTS', INBOX, 'rest') == 1 then
    redis.call('SADD', BUSY, path)
    if redis.call('EXISTS', BOUND) == 1 then
      redis.call('SADD', UNOBEYED, path)
    end
    redis.call('HDEL', INBOX, 'rest')
  end
end

local function busy_no_more()
  if redis.call('EXISTS', OUTBOX) == 0
    and (redis.call('EXISTS', INBOX) == 0 or redis.call('HEXISTS', INBOX, 'rest') == 1) then
    redis.call('SREM', BUSY, path)
  end
end
