-- revoke_key: take an API key out of force for good, and tell the fronts that listen.
-- ASK      id, now (ms), channel (of the fronts)
-- RETURNS  1, or 0 when there is no such key
-- ATOMIC   because the time at which it was first revoked stays.
-- An operator's: it is let through where the server is full.

local function revoke_key(root, ask)
  local hash = redis.call('HGET', key_ids_key(root), ask.id)
  local key = hash and api_key_key(root, hash)
  local record = key and redis.call('GET', key)
  if not record then return 0 end
  local kept = cmsgpack.unpack(record)
  if not kept.revoked then
    kept.revoked = ask.now
    redis.call('SET', key, cmsgpack.pack(kept))
  end
  redis.call('PUBLISH', ask.channel, ask.id)
  return 1
end

register('revoke_key', revoke_key)
