-- What waits on the shard; with a session's path, in that session.
return redis.call('HMGET', path == '' and BACKLOG or INBOX, 'messages', 'bytes')
