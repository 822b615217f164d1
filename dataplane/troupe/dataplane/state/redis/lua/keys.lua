-- The keys of one shard. KEYS[1] is its fence, `PREFIX{SHARD}:fence`; all others begin with what stands before
-- `fence`, so they are in the same hash slot. ARGV[1] is the session's path; empty where a script is on a whole shard.
local base = string.sub(KEYS[1], 1, -6)
local BUSY, BACKLOG, SESSIONS = base .. 'busy', base .. 'backlog', base .. 'sessions'
-- Sessions by when something of them is old enough to be forgotten, and by when all of their state is.
local OLD, IDLE = base .. 'old', base .. 'idle'
-- What is due when; what waits and is scheduled, and what is promised, by session and id; sessions with verbs.
local SCHEDULE, WAITING, OPEN, ASKED, UNOBEYED =
  base .. 'schedule', base .. 'waiting', base .. 'open', base .. 'asked', base .. 'unobeyed'
local path, TALK, INBOX, ENVELOPES, RECORDS, SETTLED, AWAITED, VERBS, BOUND, JOURNALED, HISTORY, OUTBOX
local SCHEDULED, PROMISED

local function open(session)
  path = session
  TALK, INBOX, ENVELOPES = base .. 'talk:' .. path, base .. 'inbox:' .. path, base .. 'envelope:' .. path
  RECORDS, SETTLED, AWAITED = base .. 'record:' .. path, base .. 'settled:' .. path, base .. 'awaited:' .. path
  VERBS, BOUND, JOURNALED = base .. 'verb:' .. path, base .. 'bound:' .. path, base .. 'journaled:' .. path
  HISTORY, OUTBOX = base .. 'history:' .. path, base .. 'outbox:' .. path
  SCHEDULED, PROMISED = base .. 'scheduled:' .. path, base .. 'promised:' .. path
end

-- No part of a path holds a slash, so nothing else has this name.
local function journal_of(id)
  return base .. 'journal:' .. path .. '/' .. id
end

-- Something of the session is old enough to be forgotten some time after `since`. Noted once for each.
local noted, noted_of
local function ages(since)
  if noted ~= since or noted_of ~= path then
    redis.call('ZADD', OLD, 'LT', since, path)
    noted, noted_of = since, path
  end
end

open(ARGV[1])
