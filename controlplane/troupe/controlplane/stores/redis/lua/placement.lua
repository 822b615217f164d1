-- Its version and content; no content before the first.
return {'OK', placement, redis.call('GET', PLACEMENT)}
