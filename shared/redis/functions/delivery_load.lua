-- delivery_load: return what a partition's deliveries came to, and how late they are.
-- ASK      nothing
-- RETURNS  {delivered (ever), failed (ever), deliveries under way, ms since the oldest event that is not delivered, ms
--          since the earliest attempt that is due, webhooks that their receivers have disabled}
-- ATOMIC   because entries that an older process left behind are removed, and must not be in use again.
-- Also allowed on a full server.

local REMOVED_AT_ONCE = 64

-- Returns the time of a list's first entry, nil for an empty one. Entries that are no longer true leave the list.
local function first_of(key, is_true)
  local found = redis.pcall('ZRANGE', key, 0, REMOVED_AT_ONCE - 1, 'WITHSCORES')
  for i = 1, found.err and 0 or #found, 2 do
    if is_true(found[i]) then return tonumber(found[i + 1]) end
    redis.call('ZREM', key, found[i])
  end
end

local function count_of(key)
  local count = redis.pcall('ZCARD', key)
  return type(count) == 'number' and count or 0
end

local function always() return true end

local function delivery_load(root)
  local now = now_ms()
  local oldest = first_of(undelivered_key(root), function(name)
    local account, id = split(name)
    return redis.pcall('HGET', delivery_key(root, account, id), 'state') == 'pending'
  end)
  local unread = first_of(unread_logs_key(root), always)
  first_of(disabled_webhooks_key(root), function(account)
    return redis.pcall('HEXISTS', webhook_key(root, account), 'disabled') == 1
  end)
  local counts = redis.pcall('HMGET', clocks_key(root), 'delivered', 'undelivered')
  local due = first_of(due_targets_key(root), always)
  return {
    tonumber(counts[1] or 0), tonumber(counts[2] or 0), count_of(undelivered_key(root)),
    math.max(0, now - math.min(oldest or now, unread or now)), math.max(0, now - (due or now)),
    count_of(disabled_webhooks_key(root)),
  }
end

register('delivery_load', delivery_load)
