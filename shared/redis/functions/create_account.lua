-- create_account: make an account if there is none of that name, or give it another tier.
-- ASK      account, blob (the record of a new one); if given: tier (in the place of the one it has)
-- RETURNS  the account's record
-- ATOMIC   because a preference that is written meanwhile must not be lost.
-- An operator's: it is let through where the server is full.

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
