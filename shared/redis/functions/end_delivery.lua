-- end_delivery: store how an attempt at a delivery ended.
-- ASK      account, target, id, attempt, outcome ('delivered', 'retry', 'failed', or 'gone': the receiver wants no
--          more), retry_ms, calls_per_host, blob (the attempt's record)
-- RETURNS  the delivery's state: 'pending', 'delivered', 'failed', or 'disabled' where this attempt ended the account's
--          webhook; 'unknown' where the delivery was deleted
-- ATOMIC   because the attempt, the state and the time of the next attempt are stored together. The same attempt again
--          finds that it is stored, and one that another has replaced changes no queue.

-- Stores an attempt, and bounds what a delivery that is replayed for ever takes: earlier attempts lose the receiver's
-- answer, and those before them are deleted.
local function store_attempt(key, ask)
  redis.call('HSET', key, 'a' .. int(ask.attempt), ask.blob)
  redis.call('HDEL', key, 'a' .. int(ask.attempt - DELIVERY_ATTEMPTS_KEPT))
  local earlier = 'a' .. int(ask.attempt - DELIVERY_ANSWERS_KEPT)
  local record = redis.call('HGET', key, earlier)
  local is_read, attempt = pcall(cmsgpack.unpack, record or '')
  if not is_read or type(attempt) ~= 'table' or not attempt.answer then return end
  attempt.answer = nil
  redis.call('HSET', key, earlier, cmsgpack.pack(attempt))
end

local function note_target(root, ask)
  local failing = failing_target_key(root, ask.account, ask.target)
  if ask.outcome == 'retry' then
    redis.call('SET', failing, '', 'PX', webhooks.FAILING_MS)
  else
    redis.call('DEL', failing)
  end
  return ask.outcome == 'retry' and 1 or ask.calls_per_host
end

-- The receiver of the account's webhook wants no more: nothing is sent there until its URL is set again.
local function disable(root, account, url, now)
  local key = webhook_key(root, account)
  if redis.call('HGET', key, 'url') ~= url then return false end
  redis.call('HSET', key, 'disabled', 'gone', 'disabled_at', int(now))
  redis.call('HDEL', account_totals_key(root, account), 'webhook')
  redis.pcall('ZADD', disabled_webhooks_key(root), int(now), account)
  return true
end

-- Ends the delivery or lets it wait for its next attempt; returns its state.
local function store_outcome(root, ask, url, give_up, now)
  local account, id = ask.account, ask.id
  if ask.outcome == 'retry' and now + ask.retry_ms <= tonumber(give_up) then
    redis.call('HSET', delivery_key(root, account, id), 'next', int(now + ask.retry_ms))
    redis.call('ZADD', deliveries_due_key(root, account, ask.target), int(now + ask.retry_ms), id)
    return 'pending'
  end
  if ask.outcome == 'delivered' then
    webhooks.close(root, account, id, 'delivered', nil, now)
    return 'delivered'
  end
  local reason = ask.outcome == 'retry' and 'too_late' or ask.outcome == 'gone' and 'gone' or 'refused'
  webhooks.close(root, account, id, 'failed', reason, now)
  local is_disabled = ask.outcome == 'gone' and not webhooks.is_own_url(id) and disable(root, account, url, now)
  return is_disabled and 'disabled' or 'failed'
end

local function end_delivery(root, ask)
  local key, now, field = delivery_key(root, ask.account, ask.id), now_ms(), 'a' .. int(ask.attempt)
  local sent = deliveries_sent_key(root, ask.account, ask.target)
  local state, attempts, url, give_up, stored = unpack(redis.call('HMGET', key, 'state', 'attempts', 'url', 'give_up',
    field))
  if not state then
    redis.call('ZREM', sent, ask.id)
    webhooks.reschedule(root, ask.account, ask.target, ask.calls_per_host)
    return 'unknown'
  end
  if stored then return state end
  store_attempt(key, ask)
  -- Its lease may have lapsed, but nobody has taken it since.
  local is_current = tonumber(attempts) == ask.attempt
  if is_current then
    redis.call('ZREM', sent, ask.id)
    redis.call('ZREM', deliveries_due_key(root, ask.account, ask.target), ask.id)
  end
  if state == 'pending' and is_current then state = store_outcome(root, ask, url, give_up, now) end
  if is_current then webhooks.reschedule(root, ask.account, ask.target, note_target(root, ask)) end
  return state
end

register('end_delivery', end_delivery)
