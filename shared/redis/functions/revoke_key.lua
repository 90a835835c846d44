-- revoke_key: revoke an API key for good, and notify the fronts.
-- ASK      id, now (ms), channel (of the fronts)
-- RETURNS  1, or 0 when there is no such key
-- ATOMIC   because the time of the first revocation stays.
-- For an operator, so it is also allowed on a full server.

local function revoke_key(root, ask)
  local key, hash = api_keys.find(root, ask.id)
  if not key then return 0 end
  api_keys.revoke(root, key, hash, ask.now, ask.channel)
  return 1
end

register('revoke_key', revoke_key)
