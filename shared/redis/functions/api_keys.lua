-- Shared: which API keys an account has, for its list and its quota.
--
-- Each account has a list of its keys that are not revoked, by when they were made, and a list of those that expire.
-- Older processes write key records and the hash `key-ids`, but not the lists. `keys-listed` counts the fields of
-- `key-ids` that are in a list: a difference means that keys are missing in the lists, and `adopt_keys` adds them.
-- Example: `key-ids` has 5 fields and `keys-listed` is 3, so an older process made 2 keys.

local api_keys = {}

function api_keys.count_missing(root)
  return redis.call('HLEN', key_ids_key(root)) - tonumber(redis.call('GET', listed_keys_count_key(root)) or 0)
end

-- Reads a key record. Where it is of another type the error names the Redis key, since the caller knows only the id.
function api_keys.read(name)
  local record = redis.pcall('GET', name)
  if type(record) ~= 'table' then return record end
  if string.find(record.err, 'WRONGTYPE', 1, true) then record = {err = 'WRONGTYPE ' .. name .. ' is no string'} end
  error(record, 0)
end

-- Returns a key, its hash and its record as stored; nothing if there is none of that id.
function api_keys.find(root, id)
  local hash = redis.call('HGET', key_ids_key(root), id)
  local record = hash and api_keys.read(api_key_key(root, hash))
  if record then return cmsgpack.unpack(record), hash, record end
end

-- Returns the key that authenticated the request; nil if it was revoked or has expired since the front checked it.
function api_keys.find_asking(root, account, id)
  local key = api_keys.find(root, id)
  if not key or key.account ~= account or key.revoked then return nil end
  if key.expires and key.expires <= now_ms() then return nil end
  return key
end

-- Returns a scope of `key` that `by` lacks; nil if it has all of them.
function api_keys.find_lacking(asking_key, key)
  local granted = {}
  for _, scope in ipairs(asking_key.scopes) do granted[scope] = true end
  for _, scope in ipairs(key.scopes) do
    if not granted[scope] then return scope end
  end
end

function api_keys.list(root, key)
  redis.call('ZADD', account_keys_key(root, key.account), key.created, key.id)
  if key.expires then redis.call('ZADD', key_expiries_key(root, key.account), key.expires, key.id) end
end

-- Revoking a key never fails because of its lists: a list of another type does not hold the key.
function api_keys.unlist(root, account, id)
  redis.pcall('ZREM', account_keys_key(root, account), id)
  redis.pcall('ZREM', key_expiries_key(root, account), id)
end

-- Raises an error, before anything is written, where a list or the count is of another type.
function api_keys.check_lists(root, account)
  api_keys.count_missing(root)
  redis.call('ZCARD', account_keys_key(root, account))
  redis.call('ZCARD', key_expiries_key(root, account))
end

function api_keys.add(root, key, hash, record)
  api_keys.check_lists(root, key.account)
  local is_new = redis.call('HSET', key_ids_key(root), key.id, hash)
  redis.call('SET', api_key_key(root, hash), record)
  redis.call('INCRBY', listed_keys_count_key(root), is_new)
  api_keys.list(root, key)
end

-- A deleted id is remembered for as long as the request that made or deleted it may be repeated.
api_keys.REMEMBERED_MS = 600000

-- `call` is the id of the request that deleted the key, '' where none did (it expired).
function api_keys.remember_deleted(root, key, call)
  local for_ms = api_keys.REMEMBERED_MS + math.max(0, (key.receipt_ends or 0) - now_ms())
  redis.call('SET', deleted_key_key(root, key.account, key.id), call .. ' ' .. (key.receipt or ''), 'PX', int(for_ms))
end

-- Returns which request deleted a key, and the hash of the Idempotency-Key it was made with; nothing if none did.
function api_keys.find_deleted(root, account, id)
  local deletion = redis.call('GET', deleted_key_key(root, account, id))
  if deletion then return string.match(deletion, '^(%S*) ?(.*)$') end
end

function api_keys.erase(root, key, hash)
  api_keys.unlist(root, key.account, key.id)
  redis.call('DEL', api_key_key(root, hash))
  if redis.call('HDEL', key_ids_key(root), key.id) == 1 then redis.call('INCRBY', listed_keys_count_key(root), -1) end
end

-- Fronts listen on the channel and end the streams that the key has open.
function api_keys.revoke(root, key, hash, at, channel)
  if not key.revoked then
    key.revoked = at
    redis.call('SET', api_key_key(root, hash), cmsgpack.pack(key))
  end
  api_keys.unlist(root, key.account, key.id)
  redis.call('PUBLISH', channel, key.id)
end
