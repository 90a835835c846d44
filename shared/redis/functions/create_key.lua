-- create_key: keep the record of a new API key.
-- ASK      hash, blob (the record)
-- RETURNS  1
-- ATOMIC   because a key that is in force must be in the lists, where it can be found and revoked.
-- An operator's: it is let through where the server is full.

local function create_key(root, ask)
  api_keys.add(root, cmsgpack.unpack(ask.blob), ask.hash, ask.blob)
  return 1
end

register('create_key', create_key)
