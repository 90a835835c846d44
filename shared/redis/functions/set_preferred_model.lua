-- set_preferred_model: write the model that an account prefers into its record, or that it prefers none.
-- ASK      account; if any: model
-- RETURNS  1, or 0 when there is no such account
-- ATOMIC   because the record is one text, and a tier that is changed meanwhile must not be changed back.

local function set_preferred_model(root, ask)
  local key = account_key(root, ask.account)
  local record = redis.call('GET', key)
  if not record then return 0 end
  local account = cmsgpack.unpack(record)
  account.preferred_model = ask.model
  redis.call('SET', key, cmsgpack.pack(account))
  return 1
end

register('set_preferred_model', set_preferred_model)
