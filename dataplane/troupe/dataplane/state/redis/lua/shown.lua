-- As Python reads it: the promise, its schema and its value.
local function shown_promise(id)
  local kept = redis.call('HMGET', PROMISED, 'promise:' .. id, 'schema:' .. id, 'value:' .. id)
  return {kept[1], kept[2] or '', kept[3] or ''}
end
