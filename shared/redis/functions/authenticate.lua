-- authenticate: a key's record and its account's, by the key's hash.
-- ASK      hash
-- RETURNS  {key record, account record} or {}
-- ATOMIC   no need; it is one look instead of two round trips.

local function authenticate(root, ask)
  local key = redis.call('GET', api_key_key(root, ask.hash))
  if not key then return {} end
  return {key, redis.call('GET', account_key(root, cmsgpack.unpack(key).account))}
end

register('authenticate', authenticate, true)
