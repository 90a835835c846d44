-- authenticate: return an API key's record and its account's, by the key's hash.
-- ASK      hash
-- RETURNS  {key record, account record} or {}
-- ATOMIC   no need; it is one round trip instead of two.

local function authenticate(root, ask)
  local key = redis.call('GET', api_key_key(root, ask.hash))
  if not key then return {} end
  return {key, redis.call('GET', account_key(root, cmsgpack.unpack(key).account))}
end

register('authenticate', authenticate, true)
