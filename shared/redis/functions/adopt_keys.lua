-- adopt_keys: add API keys that an older process made to the lists of their accounts.
-- ASK      ids; with the last ones: missing (how many were missing in the lists before the first ones)
-- RETURNS  how many are missing now
-- ATOMIC   because keys that are made or deleted meanwhile must be counted once.
-- Keys are counted as listed once all of them were passed here; what an older process makes meanwhile takes another
-- round. A record that cannot be read, or an account whose list holds another type, does not stop the others: its keys
-- are added after the repair, when all keys are passed here again.

local function adopt(root, id)
  local key = api_keys.find(root, id)
  if key and not key.revoked then api_keys.list(root, key) end
end

-- Any error other than a key's type would befall the next key as well.
local function is_of_one_key(problem)
  return type(problem) ~= 'table' or string.find(problem.err or '', 'WRONGTYPE', 1, true) ~= nil
end

local function adopt_keys(root, ask)
  for _, id in ipairs(ask.ids) do
    local is_done, problem = pcall(adopt, root, id)
    if not is_done and not is_of_one_key(problem) then error(problem, 0) end
  end
  local missing = api_keys.count_missing(root)
  if missing == 0 or missing ~= ask.missing then return missing end
  redis.call('INCRBY', listed_keys_count_key(root), missing)
  return 0
end

register('adopt_keys', adopt_keys)
