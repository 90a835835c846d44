-- set_webhook: set where an account's events are reported. A webhook that its receiver has disabled is enabled again.
-- ASK      account, url, events (codes of their types, each between blanks), secret (for an account that has none)
-- RETURNS  1 if the secret is the account's now, else 0
-- ATOMIC   because ends find the account's webhook in its totals, and deliveries in its own hash.

local function set_webhook(root, ask)
  local key, now = webhook_key(root, ask.account), int(now_ms())
  redis.call('HGET', account_totals_key(root, ask.account), 'webhook')
  redis.call('HSETNX', key, 'secret', ask.secret)
  redis.call('HSETNX', key, 'created', now)
  redis.call('HSET', key, 'url', ask.url, 'events', ask.events, 'updated', now)
  redis.call('HDEL', key, 'disabled', 'disabled_at')
  redis.pcall('ZREM', disabled_webhooks_key(root), ask.account)
  redis.call('HSET', account_totals_key(root, ask.account), 'webhook', '1')
  return redis.call('HGET', key, 'secret') == ask.secret and 1 or 0
end

register('set_webhook', set_webhook)
