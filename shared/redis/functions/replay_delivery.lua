-- replay_delivery: send a delivery again, with the same id; one that waits for its next attempt is sent now.
-- ASK      account, id, request (its id; the same again does nothing), give_up_ms, keep_ms; if given: idempotency
-- RETURNS  'replayed', 'unknown' or 'disabled': the account has no webhook now, or its receiver wants no more
-- ATOMIC   because a delivery must not be in its queue twice, or be counted twice.

local function replay_delivery(root, ask)
  local account, id = ask.account, ask.id
  local key, now = delivery_key(root, account, id), now_ms()
  local state, url, replayed = unpack(redis.call('HMGET', key, 'state', 'url', 'replayed'))
  if not state then return 'unknown' end
  local first = webhooks.first_answer(root, account, ask.idempotency, ask.request)
  if first or replayed == ask.request then return 'replayed' end
  if not webhooks.is_own_url(id) then
    local present_url, disabled = unpack(redis.call('HMGET', webhook_key(root, account), 'url', 'disabled'))
    if not present_url or disabled then return 'disabled' end
    if state ~= 'pending' then url = present_url end
  end
  local target = webhooks.target_of(url)
  local is_sent = redis.call('ZSCORE', deliveries_sent_key(root, account, target), id)
  if state ~= 'pending' then
    webhooks.note_open(root, account, id, now)
    webhooks.count_open(root, account, 1)
  end
  redis.call('HSET', key, 'state', 'pending', 'url', url, 'replayed', ask.request, 'next', int(now),
    'give_up', int(now + ask.give_up_ms))
  redis.call('HDEL', key, 'ended', 'reason')
  redis.call('PEXPIRE', key, int(ask.keep_ms))
  redis.call('ZADD', deliveries_key(root, account), 'XX', int(now), id)
  redis.call('PEXPIRE', deliveries_key(root, account), int(ask.keep_ms))
  if not is_sent then webhooks.enqueue(root, account, id, url, now) end
  webhooks.note_answer(root, ask.account, ask.idempotency, ask.request, '1')
  return 'replayed'
end

register('replay_delivery', replay_delivery)
