-- What turns that end DONE change, and deleting the session drops.
local function look_at_talk()
  redis.call('HLEN', TALK)
  redis.call('LLEN', HISTORY)
  redis.call('ZCARD', SESSIONS)
  redis.call('ZCARD', IDLE)
end

local function drop_talk()
  redis.call('HDEL', TALK, 'version', 'turns', 'created', 'updated', 'usage', 'state', 'snapshot', 'covers')
  redis.call('DEL', HISTORY)
  redis.call('ZREM', SESSIONS, path)
  redis.call('ZREM', IDLE, path)
end
