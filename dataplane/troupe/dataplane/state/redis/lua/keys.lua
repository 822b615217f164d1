-- The keys of one shard. KEYS[1] is its fence, `PREFIX{SHARD}:fence`; all others begin with what stands before
-- `fence`, so they are in the same hash slot. ARGV[1] is the session's path; empty where a script is on a whole shard.
local base = string.sub(KEYS[1], 1, -6)
local BUSY, BACKLOG, SESSIONS = base .. 'busy', base .. 'backlog', base .. 'sessions'
local IDLE, DUE = base .. 'idle', base .. 'due'
local path, TALK, INBOX, ENVELOPES, RECORDS, SETTLED, AWAITED, VERBS, JOURNALED, HISTORY, OUTBOX

local function open(session)
  path = session
  TALK, INBOX, ENVELOPES = base .. 'talk:' .. path, base .. 'inbox:' .. path, base .. 'envelope:' .. path
  RECORDS, SETTLED, VERBS = base .. 'record:' .. path, base .. 'settled:' .. path, base .. 'verb:' .. path
  AWAITED = base .. 'awaited:' .. path
  JOURNALED, HISTORY, OUTBOX = base .. 'journaled:' .. path, base .. 'history:' .. path, base .. 'outbox:' .. path
end

-- No part of a path holds a slash, so nothing else has this name.
local function journal_of(id)
  return base .. 'journal:' .. path .. '/' .. id
end

open(ARGV[1])
