-- release_idempotency_key: delete an Idempotency-Key whose request came to nothing, or whose result was deleted.
-- ASK      account, idempotency, id (of the API key that it stands for)
-- RETURNS  1
-- ATOMIC   because the Idempotency-Key may stand for another request by now.
-- Also allowed on a full server.

local function release_idempotency_key(root, ask)
  delete_idempotency_record(root, ask.account, ask.idempotency, 'api_key', ask.id)
  return 1
end

register('release_idempotency_key', release_idempotency_key)
