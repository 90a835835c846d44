-- create_account: create an account if there is none of that name, or give it another tier.
-- ASK      account, blob (the record of a new one); if given: tier (in place of its present one)
-- RETURNS  the account's record
-- ATOMIC   because a preference that is written meanwhile must not be lost.
-- For an operator, so it is also allowed on a full server.

local function create_account(root, ask)
  local key = account_key(root, ask.account)
  local record = redis.call('GET', key)
  if not record then
    redis.call('SET', key, ask.blob)
    return ask.blob
  end
  local account = cmsgpack.unpack(record)
  if not ask.tier or account.tier == ask.tier then return record end
  account.tier = ask.tier
  record = cmsgpack.pack(account)
  redis.call('SET', key, record)
  return record
end

register('create_account', create_account)
