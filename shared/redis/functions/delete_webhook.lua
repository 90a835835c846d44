-- delete_webhook: delete an account's webhook with its secrets and the deliveries to it.
-- ASK      account
-- RETURNS  'deleted' or 'unknown'
-- ATOMIC   because no delivery may be made for a webhook that is half deleted.
-- Deliveries to the URLs of single requests stay; the account gets a new secret for them when it needs one.

local function delete_webhook(root, ask)
  local account = ask.account
  local key, list = webhook_key(root, account), deliveries_key(root, account)
  local was_set = redis.call('HEXISTS', key, 'url')
  local open = 0
  for _, id in ipairs(redis.call('ZRANGE', list, 0, -1)) do
    local delivery = delivery_key(root, account, id)
    local state, url = unpack(redis.call('HMGET', delivery, 'state', 'url'))
    if webhooks.is_own_url(id) then
      if state == 'pending' then open = open + 1 end
    else
      redis.call('UNLINK', delivery)
      redis.call('ZREM', list, id)
      if state == 'pending' then
        local target = webhooks.target_of(url)
        webhooks.note_closed(root, account, id)
        redis.call('ZREM', deliveries_due_key(root, account, target), id)
        redis.call('ZREM', deliveries_sent_key(root, account, target), id)
        webhooks.reschedule(root, account, target, 1)
      end
    end
  end
  redis.call('HDEL', account_totals_key(root, account), 'webhook')
  redis.pcall('ZREM', disabled_webhooks_key(root), account)
  redis.call('HDEL', key, 'url', 'events', 'secret', 'former', 'former_until', 'earlier', 'rotated', 'created',
    'updated', 'disabled', 'disabled_at', 'tested', 'test')
  if open > 0 then
    redis.call('HSET', key, 'open', open)
  else
    redis.call('HDEL', key, 'open')
  end
  return was_set == 1 and 'deleted' or 'unknown'
end

register('delete_webhook', delete_webhook)
