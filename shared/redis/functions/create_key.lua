-- create_key: keep the record of a new API key.
-- ASK      id, hash, blob (the record)
-- RETURNS  1
-- ATOMIC   because a key that is in force must be in the list, where it can be revoked.
-- An operator's: it is let through where the server is full.

local function create_key(root, ask)
  redis.call('HSET', key_ids_key(root), ask.id, ask.hash)
  redis.call('SET', api_key_key(root, ask.hash), ask.blob)
  return 1
end

register('create_key', create_key)
