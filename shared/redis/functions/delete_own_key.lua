-- delete_own_key: revoke and delete an API key of an account, as another key of the account asks.
-- ASK      account, by (the id of the key that asks, perhaps the same one), id, call (the id of the request), channel
--          (of the fronts)
-- RETURNS  {'deleted', the hash of the Idempotency-Key it was made with, or ''} (also when this call is repeated),
--          {'unknown', that hash of a key deleted before, or ''}, {'ended'} (the asking key was revoked or has
--          expired), {'lacks', scope} or {'missing'} (keys are missing in the lists: see adopt_keys)
-- ATOMIC   because a key that is revoked meanwhile must not revoke others, and a place in the quota is freed once.
-- A key that an operator created stays in the operator's list, as revoked. Also allowed on a full server.

local function delete_own_key(root, ask)
  local call, receipt = api_keys.find_deleted(root, ask.account, ask.id)
  if call == ask.call then return {'deleted', receipt} end
  local asking_key = api_keys.find_asking(root, ask.account, ask.by)
  if not asking_key then return {'ended'} end
  -- Another account's key takes the same steps as one that does not exist: even the time does not differ.
  if not redis.call('ZSCORE', account_keys_key(root, ask.account), ask.id) then
    if api_keys.count_missing(root) ~= 0 then return {'missing'} end
    return {'unknown', receipt or ''}
  end
  local key, hash = api_keys.find(root, ask.id)
  if not key or key.revoked then
    api_keys.unlist(root, ask.account, ask.id)
    return {'unknown', receipt or ''}
  end
  local lacking = api_keys.find_lacking(asking_key, key)
  if lacking then return {'lacks', lacking} end
  api_keys.revoke(root, key, hash, now_ms(), ask.channel)
  if key.created_by then api_keys.erase(root, key, hash) end
  api_keys.remember_deleted(root, key, ask.call)
  return {'deleted', key.receipt or ''}
end

register('delete_own_key', delete_own_key)
