-- free_receipt: forget an Idempotency-Key, because nothing came of its request or what it made was deleted.
-- ASK      account, idempotency, id (of the API key that it stands for)
-- RETURNS  1
-- ATOMIC   because the Idempotency-Key may stand for another request by now.
-- Let through where the server is full.

local function free_receipt(root, ask)
  forget_receipt(root, ask.account, ask.idempotency, 'api_key', ask.id)
  return 1
end

register('free_receipt', free_receipt)
