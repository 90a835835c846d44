-- delete_webhook: delete an account's webhook with its secrets, and the deliveries to it piece by piece.
-- ASK      account, offset (0 at first, then what the call before returned)
-- RETURNS  {'deleted' or 'unknown' (the first call says which), the offset of the next piece, -1 after the last}
-- ATOMIC   because no delivery may be made for a webhook that is half deleted.
-- Deliveries to the URLs of single requests stay; the account gets a new secret for them when it needs one. A webhook
-- that is set between two pieces keeps what is left. What a caller leaves that dies ends when it is due.

local PIECE = 200

local function delete_one(root, account, id)
  local delivery = delivery_key(root, account, id)
  local state, url = unpack(redis.call('HMGET', delivery, 'state', 'url'))
  redis.call('UNLINK', delivery)
  redis.call('ZREM', deliveries_key(root, account), id)
  if state ~= 'pending' then return end
  local target = webhooks.target_of(url)
  webhooks.note_closed(root, account, id)
  webhooks.count_open(root, account, -1)
  redis.call('ZREM', deliveries_due_key(root, account, target), id)
  redis.call('ZREM', deliveries_sent_key(root, account, target), id)
  webhooks.reschedule(root, account, target, 1)
end

local function delete_webhook(root, ask)
  local account, key = ask.account, webhook_key(root, ask.account)
  local was_set = redis.call('HEXISTS', key, 'url') == 1
  if ask.offset > 0 and was_set then return {'deleted', -1} end
  redis.call('HDEL', account_totals_key(root, account), 'webhook')
  redis.pcall('ZREM', disabled_webhooks_key(root), account)
  redis.call('HDEL', key, 'url', 'events', 'secret', 'former', 'former_until', 'earlier', 'rotated', 'created',
    'updated', 'disabled', 'disabled_at', 'tested', 'test')
  local kept, first = 0, math.max(0, ask.offset - 1)
  local ids = redis.call('ZRANGE', deliveries_key(root, account), int(first), int(first + PIECE - 1))
  for _, id in ipairs(ids) do
    if webhooks.is_own_url(id) then kept = kept + 1 else delete_one(root, account, id) end
  end
  if redis.call('HGET', key, 'open') == '0' then redis.call('HDEL', key, 'open') end
  return {was_set and 'deleted' or 'unknown', #ids == PIECE and first + kept + 1 or -1}
end

register('delete_webhook', delete_webhook)
