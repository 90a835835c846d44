-- release_idempotency_key: forget an Idempotency-Key, because nothing came of its request or what it made was deleted.
-- ASK      account, idempotency, id (of the API key that it stands for)
-- RETURNS  1
-- ATOMIC   because the Idempotency-Key may stand for another request by now.
-- Let through where the server is full.

local function release_idempotency_key(root, ask)
  delete_idempotency_record(root, ask.account, ask.idempotency, 'api_key', ask.id)
  return 1
end

register('release_idempotency_key', release_idempotency_key)
