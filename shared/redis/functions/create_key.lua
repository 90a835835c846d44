-- create_key: store the record of a new API key.
-- ASK      hash, blob (the record)
-- RETURNS  1
-- ATOMIC   because a valid key must be in the lists, where it can be found and revoked.
-- For an operator, so it is also allowed on a full server.

local function create_key(root, ask)
  api_keys.add(root, cmsgpack.unpack(ask.blob), ask.hash, ask.blob)
  return 1
end

register('create_key', create_key)
