-- adopt_keys: put API keys that an older process made into the lists of their accounts.
-- ASK      ids; with the last ones: missing (how many were missing in the lists before the first ones)
-- RETURNS  how many are missing now
-- ATOMIC   because keys that are made or deleted meanwhile must be counted once.
-- Keys are accounted for once all of them were passed here; what an older process made meanwhile takes another round.

local function adopt_keys(root, ask)
  for _, id in ipairs(ask.ids) do
    local key = api_keys.find(root, id)
    if key and not key.revoked then api_keys.list(root, key) end
  end
  local missing = api_keys.count_missing(root)
  if missing == 0 or missing ~= ask.missing then return missing end
  redis.call('INCRBY', keys_listed_key(root), missing)
  return 0
end

register('adopt_keys', adopt_keys)
