-- revoke_key: take an API key out of force for good, and tell the fronts that listen.
-- ASK      id, now (ms), channel (of the fronts)
-- RETURNS  1, or 0 when there is no such key
-- ATOMIC   because the time at which it was first revoked stays.
-- An operator's: it is let through where the server is full.

local function revoke_key(root, ask)
  local key, hash = api_keys.find(root, ask.id)
  if not key then return 0 end
  api_keys.revoke(root, key, hash, ask.now, ask.channel)
  return 1
end

register('revoke_key', revoke_key)
