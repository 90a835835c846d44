-- delete_own_key: take an API key of an account out of force and forget it, as another key of the account asks.
-- ASK      account, by (the id of the key that asks, perhaps the same one), id, call (which request asks), channel (of the fronts)
-- RETURNS  {'deleted', the hash of the Idempotency-Key it was made with, or ''} (also when this call is repeated),
--          {'unknown', that hash of a key deleted before, or ''}, {'ended'} (the key that asks), {'lacks', scope} or
--          {'missing'} (see adopt_keys)
-- ATOMIC   because a key that is revoked meanwhile must not take others with it, and a place is freed once.
-- A key that an operator made stays in the operator's list, as revoked. Let through where the server is full.

local function delete_own_key(root, ask)
  local call, receipt = api_keys.find_deleted(root, ask.account, ask.id)
  if call == ask.call then return {'deleted', receipt} end
  local by = api_keys.find_asking(root, ask.account, ask.by)
  if not by then return {'ended'} end
  -- Another account's key is looked for in the same places as one that is not there: not even the time differs.
  if not redis.call('ZSCORE', account_keys_key(root, ask.account), ask.id) then
    if api_keys.count_missing(root) ~= 0 then return {'missing'} end
    return {'unknown', receipt or ''}
  end
  local key, hash = api_keys.find(root, ask.id)
  if not key or key.revoked then
    api_keys.unlist(root, ask.account, ask.id)
    return {'unknown', receipt or ''}
  end
  local lacking = api_keys.find_lacking(by, key)
  if lacking then return {'lacks', lacking} end
  api_keys.revoke(root, key, hash, now_ms(), ask.channel)
  if key.created_by then api_keys.erase(root, key, hash) end
  api_keys.remember_deleted(root, key, ask.call)
  return {'deleted', key.receipt or ''}
end

register('delete_own_key', delete_own_key)
