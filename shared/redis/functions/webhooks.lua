-- Shared: what an account's webhook is, and the queues from which deliveries are sent.
--
-- The log is the outbox. An account with events that somebody wants stands in `unread-logs`; `cursor` in its webhook's
-- hash is the first event to look at. A worker turns events into deliveries, one for each event and receiver, with an
-- id made of both. A delivery waits in the queue of its target (the host, by a hash of scheme, host and port), so that
-- one host's queue never stands before another's, and a target with anything in its queue stands in `due-targets`.

local webhooks = {}

webhooks.POSTPONED_MS, webhooks.FAILING_MS = 500, '3600000'
-- What ends the id of a delivery to the URL of the request itself.
webhooks.OWN_URL = '-r'
-- How many secrets sign at once, however often the secret is rotated within a day.
webhooks.SECRETS_MAX = 5

-- Returns whether the account has a webhook. Called by ends, which must not fail for it.
function webhooks.is_watched(root, account)
  return redis.pcall('HGET', account_totals_key(root, account), 'webhook') == '1'
end

-- Notes that somebody wants an event of the account's log. Where a key is of another type, the event is not delivered,
-- but the end is not lost, and the log has it.
function webhooks.note_event(root, account, id, now)
  redis.pcall('HSETNX', webhook_key(root, account), 'cursor', id)
  redis.pcall('ZADD', unread_logs_key(root), 'NX', int(now), account)
end

-- Returns the target of a URL, which is in its normal form.
function webhooks.target_of(url)
  return string.sub(redis.sha1hex(string.match(url, '^%a+://[^/?#]*') or url), 1, 16)
end

-- Moves a target to when something is due for it: its first delivery, unless it has as many calls as it may have, or
-- the end of a lease. `earliest` postpones what is due.
function webhooks.reschedule(root, account, target, calls_max, earliest)
  local due, sent = deliveries_due_key(root, account, target), deliveries_sent_key(root, account, target)
  local first_due = tonumber(redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2])
  local first_lease = tonumber(redis.call('ZRANGE', sent, 0, 0, 'WITHSCORES')[2])
  if first_due and redis.call('ZCARD', sent) >= calls_max then first_due = nil end
  if first_due then first_due = math.max(first_due, earliest or 0) end
  if not first_due and not first_lease then
    redis.call('ZREM', due_targets_key(root), member(account, target))
  else
    local at = math.min(first_due or first_lease, first_lease or first_due)
    redis.call('ZADD', due_targets_key(root), int(at), member(account, target))
  end
end

-- Puts a delivery into the queue of its target.
function webhooks.enqueue(root, account, id, url, at)
  local target = webhooks.target_of(url)
  redis.call('ZADD', deliveries_due_key(root, account, target), int(at), id)
  redis.call('ZADD', due_targets_key(root), 'LT', int(at), member(account, target))
end

-- Counts deliveries under way; the count never falls below zero.
function webhooks.count_open(root, account, change)
  local key = webhook_key(root, account)
  if redis.call('HINCRBY', key, 'open', change) < 0 then redis.call('HSET', key, 'open', 0) end
end

-- What an operator reads (`delivery_load`): it holds up no delivery where a key of it is of another type.
function webhooks.note_open(root, account, id, at)
  redis.pcall('ZADD', undelivered_key(root), int(at), member(account, id))
end

function webhooks.note_closed(root, account, id, state)
  redis.pcall('ZREM', undelivered_key(root), member(account, id))
  if state then redis.pcall('HINCRBY', clocks_key(root), state == 'delivered' and 'delivered' or 'undelivered', 1) end
end

-- Ends a delivery that is under way.
function webhooks.close(root, account, id, state, reason, now)
  redis.call('HSET', delivery_key(root, account, id), 'state', state, 'ended', int(now), 'reason', reason or '')
  redis.call('HDEL', delivery_key(root, account, id), 'next')
  webhooks.note_closed(root, account, id, state)
  webhooks.count_open(root, account, -1)
end

-- Returns what a request with an Idempotency-Key was answered before; others may have come since. `request` is the id
-- that the key stands for.
function webhooks.first_answer(root, account, idempotency, request)
  if not idempotency then return nil end
  local first, answer = unpack(redis.call('HMGET', idempotency_key(root, account, idempotency), 'api_key', 'answer'))
  return first == request and answer or nil
end

function webhooks.note_answer(root, account, idempotency, request, answer)
  if not idempotency then return end
  local receipt = idempotency_key(root, account, idempotency)
  if redis.call('HGET', receipt, 'api_key') == request then redis.call('HSET', receipt, 'answer', answer) end
end

-- Returns the secrets that sign, the newest first. `former` is the last one before it, `earlier` holds those before
-- that, each with the end of its validity.
function webhooks.secrets(webhook, now)
  local found = {webhook.secret}
  if webhook.former and webhook.former_until > now then found[2] = webhook.former end
  for secret, valid_until in string.gmatch(webhook.earlier or '', '(%S+) (%d+)') do
    if tonumber(valid_until) > now and #found < webhooks.SECRETS_MAX then found[#found + 1] = secret end
  end
  return found
end

function webhooks.is_own_url(id) return string.sub(id, -2) == webhooks.OWN_URL end
