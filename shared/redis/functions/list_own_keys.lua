-- list_own_keys: return some of the API keys of an account, the newest first.
-- ASK      account, offset, limit
-- RETURNS  {how many keys are missing in the lists (see adopt_keys), how many the account has, {record...}}
-- ATOMIC   because a key that an older process revoked leaves the list here, together with its count.
-- Also allowed on a full server.

local function list_page(root, account, offset, limit)
  local found, ended = {}, {}
  for _, id in ipairs(redis.call('ZRANGE', account_keys_key(root, account), offset, offset + limit - 1, 'REV')) do
    local key, _, record = api_keys.find(root, id)
    if key and not key.revoked then
      table.insert(found, record)
    else
      table.insert(ended, id)
    end
  end
  return found, ended
end

local function list_own_keys(root, ask)
  local found, ended
  repeat
    found, ended = list_page(root, ask.account, ask.offset, ask.limit)
    for _, id in ipairs(ended) do api_keys.unlist(root, ask.account, id) end
  until #ended == 0
  return {api_keys.count_missing(root), redis.call('ZCARD', account_keys_key(root, ask.account)), found}
end

register('list_own_keys', list_own_keys)
