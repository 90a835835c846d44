-- take_deliveries: turn new events into deliveries, and take those that are due under a lease.
-- ASK      count (how many to take at most), lease_ms, give_up_ms, keep_ms, kept_max, undelivered_max, calls_per_host,
--          calls_per_account (in this worker), secret (for an account that has none); if any: calls (how many this
--          worker has under way, by account)
-- RETURNS  {{{account, target, id, attempt, event, type, subject, created ms, url, secret, former secrets...}...}, ms
--          until something is due (-1: nothing waits), {what cannot be worked on, and why...}}
-- ATOMIC   because the cursor moves and deliveries are made together, and two workers never take the same one. A call
--          whose reply was lost took deliveries whose leases lapse.

local LOGS_AT_ONCE, EVENTS_AT_ONCE, TARGETS_AT_ONCE, LAPSED_AT_ONCE = 4, 64, 128, 64
local LOG_FULL_MS, DAMAGED_MS, TRIMMED_AT_ONCE = 2000, 60000, 16

-- Deletes deliveries beyond those that are kept, the oldest first; those under way stay. Where the oldest are all under
-- way, the next call goes on behind them (`trimmed` is how many it passes over); from the end, it begins again.
local function trim(root, account, ask, now)
  local list, webhook = deliveries_key(root, account), webhook_key(root, account)
  local excess = redis.call('ZCARD', list) - ask.kept_max
  local first, passed = tonumber(redis.call('HGET', webhook, 'trimmed')) or 0, 0
  local oldest = redis.call('ZRANGE', list, first, first + TRIMMED_AT_ONCE - 1, 'WITHSCORES')
  for i = 1, #oldest, 2 do
    if excess <= 0 and tonumber(oldest[i + 1]) > now - ask.keep_ms then
      passed = -first
      break
    end
    local key = delivery_key(root, account, oldest[i])
    if redis.call('HGET', key, 'state') == 'pending' then
      passed = passed + 1
    else
      redis.call('UNLINK', key)
      redis.call('ZREM', list, oldest[i])
      excess = excess - 1
    end
  end
  local position = #oldest < 2 * TRIMMED_AT_ONCE and 0 or first + passed
  if position > 0 then
    redis.call('HSET', webhook, 'trimmed', int(position))
  elseif first > 0 then
    redis.call('HDEL', webhook, 'trimmed')
  end
end

local function make_delivery(root, account, id, event, url, ask, now)
  local key, list = delivery_key(root, account, id), deliveries_key(root, account)
  redis.call('HSET', key, 'event', event.id, 'type', event.type, 'subject', event.subject, 'url', url,
    'state', 'pending', 'created', int(now), 'give_up', int(now + ask.give_up_ms), 'attempts', 0, 'next', int(now))
  redis.call('PEXPIRE', key, int(ask.keep_ms))
  redis.call('ZADD', list, int(now), id)
  redis.call('PEXPIRE', list, int(ask.keep_ms))
  webhooks.note_open(root, account, id, string.match(event.id, '^%d+'))
  webhooks.count_open(root, account, 1)
  webhooks.enqueue(root, account, id, url, now)
  trim(root, account, ask, now)
end

-- Returns an entry of the log as a table, with the code of its type; nil where it has another form.
local function parse(entry)
  local code, subject, more = string.match(entry[2][2] or '', '^(%S+) (%S+) ?(.*)$')
  if not code then return nil end
  local is_read, about = false, nil
  if more ~= '' then is_read, about = pcall(cjson.decode, more) end
  return {
    id = entry[1], code = code, type = EVENT_TYPES[code] or code, subject = subject,
    own_url = is_read and type(about) == 'table' and about.webhook_url or nil,
  }
end

-- Makes the deliveries of one event: to the account's webhook where it wants the type, and to the request's own URL.
local function deliver_event(root, account, webhook, event, ask, now)
  local id = event.subject .. '-' .. event.id
  local is_wanted = webhook.url and not webhook.disabled
    and (event.code == EVENT_CODES['webhook.test'] or string.find(webhook.events, ' ' .. event.code .. ' ', 1, true))
  if is_wanted then make_delivery(root, account, id, event, webhook.url, ask, now) end
  if event.own_url and not (is_wanted and event.own_url == webhook.url) then
    make_delivery(root, account, id .. webhooks.OWN_URL, event, event.own_url, ask, now)
  end
end

local function load_webhook(root, account)
  local url, events, disabled, cursor, open, secret, former, former_until, earlier = unpack(redis.call('HMGET',
    webhook_key(root, account), 'url', 'events', 'disabled', 'cursor', 'open', 'secret', 'former', 'former_until',
    'earlier'))
  return {
    url = url, events = events or '', disabled = disabled, cursor = cursor, open = tonumber(open) or 0,
    secret = secret, former = former, former_until = tonumber(former_until) or 0, earlier = earlier,
  }
end

-- Makes deliveries of the account's next events. While too many are under way, the rest waits in the log.
local function read_log(root, account, ask, now)
  local key, unread = webhook_key(root, account), unread_logs_key(root)
  local webhook = load_webhook(root, account)
  local count = math.min(EVENTS_AT_ONCE, ask.undelivered_max - webhook.open)
  if count <= 0 then return redis.call('ZADD', unread, int(now + LOG_FULL_MS), account) end
  local found = webhook.cursor
    and redis.call('XRANGE', account_log_key(root, account), webhook.cursor, '+', 'COUNT', int(count)) or {}
  for _, entry in ipairs(found) do
    local event = parse(entry)
    if event then deliver_event(root, account, webhook, event, ask, now) end
  end
  if #found < count then
    redis.call('HDEL', key, 'cursor')
    redis.call('ZREM', unread, account)
  else
    redis.call('HSET', key, 'cursor', '(' .. found[#found][1])
    -- Behind the others, so that the accounts take turns.
    redis.call('ZADD', unread, int(now), account)
  end
end

-- Returns the delivery's fields if it is to be sent now, with the URL that holds now; nil where it has ended or has
-- another target now.
local function load_due(root, account, target, id, webhook, now)
  local key = delivery_key(root, account, id)
  local event, type_name, subject, created, url, state, attempts, give_up = unpack(redis.call('HMGET', key, 'event',
    'type', 'subject', 'created', 'url', 'state', 'attempts', 'give_up'))
  if not event then
    webhooks.note_closed(root, account, id)
    webhooks.count_open(root, account, -1)
    return nil
  end
  if state ~= 'pending' then return nil end
  -- Where the worker of its last attempt has died, nobody has ended it.
  local has_died = (tonumber(attempts) or 0) > 0 and redis.call('HEXISTS', key, 'a' .. attempts) == 0
  if has_died and now > tonumber(give_up) then
    webhooks.close(root, account, id, 'failed', 'too_late', now)
    return nil
  end
  if not webhooks.is_own_url(id) then
    if webhook.disabled or not webhook.url then
      webhooks.close(root, account, id, 'failed', 'disabled', now)
      return nil
    end
    if webhook.url ~= url then
      redis.call('HSET', key, 'url', webhook.url)
      if webhooks.target_of(webhook.url) ~= target then
        webhooks.enqueue(root, account, id, webhook.url, now)
        return nil
      end
      url = webhook.url
    end
  end
  return {account, target, id, redis.call('HINCRBY', key, 'attempts', 1), event, type_name, subject, tonumber(created),
    url}
end

-- Takes what is due for one target into `taken`, as far as there is room.
local function take_from(root, account, target, ask, calls, taken, now)
  local room_in_account = ask.calls_per_account - (calls[account] or 0)
  if room_in_account <= 0 then
    -- Left to other workers; it does not stand before other targets here.
    return redis.call('ZADD', due_targets_key(root), int(now + webhooks.POSTPONED_MS), member(account, target))
  end
  local due, sent = deliveries_due_key(root, account, target), deliveries_sent_key(root, account, target)
  local is_failing = redis.call('EXISTS', failing_target_key(root, account, target)) == 1
  local calls_max = is_failing and 1 or ask.calls_per_host
  for _, id in ipairs(redis.call('ZRANGE', sent, '-inf', int(now), 'BYSCORE', 'LIMIT', 0, LAPSED_AT_ONCE)) do
    redis.call('ZREM', sent, id)
    redis.call('ZADD', due, int(now), id)
  end
  local room = math.min(calls_max - redis.call('ZCARD', sent), ask.count - #taken, room_in_account)
  local webhook = room > 0 and load_webhook(root, account)
  if webhook and not webhook.secret then
    webhook.secret = ask.secret
    redis.call('HSET', webhook_key(root, account), 'secret', ask.secret)
  end
  local ids = room > 0 and redis.call('ZRANGE', due, '-inf', int(now), 'BYSCORE', 'LIMIT', 0, int(room)) or {}
  for _, id in ipairs(ids) do
    redis.call('ZREM', due, id)
    local delivery = load_due(root, account, target, id, webhook, now)
    if delivery then
      redis.call('ZADD', sent, int(now + ask.lease_ms), id)
      for _, secret in ipairs(webhooks.secrets(webhook, now)) do delivery[#delivery + 1] = secret end
      taken[#taken + 1] = delivery
      calls[account] = (calls[account] or 0) + 1
    end
  end
  -- What this worker has no room for is left to others, and does not stand before other targets here.
  webhooks.reschedule(root, account, target, calls_max, room_in_account <= room and now + webhooks.POSTPONED_MS)
end

local function ms_until_next(root, now)
  local first
  for _, key in ipairs({unread_logs_key(root), due_targets_key(root)}) do
    local at = tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
    if at then first = math.min(first or at, at) end
  end
  return first and math.max(0, first - now) or -1
end

-- Works on one account or target. Where a key of it is damaged, it is looked at again in a while, and stops no other.
local function guarded(faults, list, name, now, work, ...)
  local is_done, problem = pcall(work, ...)
  if is_done then return end
  redis.call('ZADD', list, int(now + DAMAGED_MS), name)
  faults[#faults + 1] = name .. ' ' .. damage.error_text(problem)
end

local function take_deliveries(root, ask)
  local now, taken, faults, calls = now_ms(), {}, {}, ask.calls or {}
  local unread = redis.call('ZRANGE', unread_logs_key(root), '-inf', int(now), 'BYSCORE', 'LIMIT', 0, LOGS_AT_ONCE)
  for _, account in ipairs(unread) do
    guarded(faults, unread_logs_key(root), account, now, read_log, root, account, ask, now)
  end
  local targets = redis.call('ZRANGE', due_targets_key(root), '-inf', int(now), 'BYSCORE', 'LIMIT', 0, TARGETS_AT_ONCE)
  for _, name in ipairs(targets) do
    if #taken >= ask.count then break end
    local account, target = split(name)
    guarded(faults, due_targets_key(root), name, now, take_from, root, account, target, ask, calls, taken, now)
  end
  return {taken, ms_until_next(root, now), faults}
end

register('take_deliveries', take_deliveries)
