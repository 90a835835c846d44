-- create_own_key: store the record of an API key that another key of its account asked for.
-- ASK      hash, keys_max, blob (the record; its `created_by` is the key that asks)
-- RETURNS  {'created'} (also when this call is repeated), {'exists', record} (created by another call, with another
--          secret), {'gone'} (created before, deleted or expired since), {'ended'} (the asking key was revoked or has
--          expired), {'lacks', scope}, {'outlives', when the asking key expires (ms)}, {'quota', how many the account
--          has} or {'missing'} (keys are missing in the lists: see adopt_keys)
-- ATOMIC   because a key that is revoked meanwhile must not leave another one behind, and the quota is exact.

local EXPIRED_AT_ONCE = 100

-- Expired keys that an operator created stay in the operator's list.
local function drop_expired(root, account, now)
  local expiries = key_expiries_key(root, account)
  for _, id in ipairs(redis.call('ZRANGE', expiries, '-inf', now, 'BYSCORE', 'LIMIT', 0, EXPIRED_AT_ONCE)) do
    local key, hash = api_keys.find(root, id)
    if key and key.created_by then
      api_keys.erase(root, key, hash)
      api_keys.remember_deleted(root, key, '')
    else
      api_keys.unlist(root, account, id)
    end
  end
end

local function find_refusal(root, new_key, keys_max)
  local asking_key, account = api_keys.find_asking(root, new_key.account, new_key.created_by), new_key.account
  if not asking_key then return {'ended'} end
  local lacking = api_keys.find_lacking(asking_key, new_key)
  if lacking then return {'lacks', lacking} end
  local expires = asking_key.expires
  if expires and (not new_key.expires or new_key.expires > expires) then return {'outlives', expires} end
  local expired = redis.call('ZCOUNT', key_expiries_key(root, account), '-inf', now_ms())
  local used = redis.call('ZCARD', account_keys_key(root, account)) - expired
  if used >= keys_max then return {'quota', used} end
end

local function create_own_key(root, ask)
  local new_key = cmsgpack.unpack(ask.blob)
  local existing_key, hash, record = api_keys.find(root, new_key.id)
  if existing_key then
    if hash == ask.hash then return {'created'} end
    return {'exists', record}
  end
  if api_keys.find_deleted(root, new_key.account, new_key.id) then return {'gone'} end
  if api_keys.count_missing(root) ~= 0 then return {'missing'} end
  local refusal = find_refusal(root, new_key, ask.keys_max)
  if refusal then return refusal end
  drop_expired(root, new_key.account, now_ms())
  api_keys.add(root, new_key, ask.hash, ask.blob)
  return {'created'}
end

register('create_own_key', create_own_key)
