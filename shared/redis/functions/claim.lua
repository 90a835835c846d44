-- claim: give up to `count` ready generations to a worker, each with a lease and a fencing token.
-- ASK      worker, wire, count, lease_ms, lanes (in order of preference), keep
-- RETURNS  {now ms, 1 if more may be ready, {account, id, lane, attempt, turn, hold, deadline ms, accepted ms,
--          retries, calls, submission, user message, the session's system prompt and companion}...}
-- ATOMIC   because two workers must never get the same generation under the same token, and a generation
--          that left the queue without a lease would be nobody's.
-- A reply that is lost leaves leases that lapse; the generations run again under the next token.
-- When nothing is ready, no ring is due to anybody: the bell is emptied, so that no worker wakes for nothing.
-- A later attempt begins by dropping what was told: the text and, as its first event, the stream at once.
-- What is tried for hours is told of its last attempts only; the reset of any of them drops all before it.

local ACCOUNTS_TRIED = 64
local ATTEMPTS_TOLD = 64

local function take(root, account, id, record, ask, now)
  -- What cannot be claimed must not stand in the way of what can.
  if not record or not TRANSITIONS[record.stage].routing then return nil end
  if tonumber(record.deadline) <= now then
    end_from_outside(root, account, id, record, 'failed', EXPIRED, ask.keep)
    return nil
  end
  local attempt = tonumber(record.attempt) + 1
  local is_again = attempt > 1
  redis.call('HSET', generation_key(root, account, id), 'stage', 'routing', 'attempt', int(attempt),
    'worker', ask.worker, 'started', int(now), 'seq', is_again and '1' or '0', 'progress', '0')
  redis.call('ZADD', leases_key(root), int(now + ask.lease_ms), member(account, id))
  redis.call('HINCRBY', books_key(root, account), 'running_' .. record.lane, 1)
  if is_again then
    redis.call('DEL', text_key(root, account, id))
    emit(root, account, id, attempt, 1, RESET)
    if attempt > ATTEMPTS_TOLD then
      redis.call('XTRIM', events_key(root, account, id), 'MINID', int(attempt - ATTEMPTS_TOLD + 1) .. '-0')
    end
  end
  return {
    account, id, record.lane, attempt, tonumber(record.turn), record.hold, record.deadline, record.accepted,
    record.retries or '0', record.calls or '0',
    redis.call('GET', submission_key(root, account, id)),
    redis.call('HGET', turns_of(root, account, record.session, record.turn), record.turn .. ':u'),
    unpack(redis.call('HMGET', session_key(root, account, record.session), 'system', 'companion')),
  }
end

-- The account with the least virtual time gives its oldest ready generation. One that this worker cannot
-- read waits for a worker that can, and the next account gives.
local function first_ready(root, lane, wire)
  for place = 0, ACCOUNTS_TRIED - 1 do
    local account, time = unpack(redis.call('ZRANGE', lane_key(root, lane), place, place, 'WITHSCORES'))
    if not account then return nil end
    local id, following = unpack(redis.call('ZRANGE', ready_key(root, account, lane), 0, 1))
    local record = load(root, account, id)
    if not record or tonumber(record.wire) <= wire then return account, time, id, record, following end
  end
end

-- It leaves the line, and its account moves on by one.
local function pop(root, lane, wire)
  local account, time, id, record, following = first_ready(root, lane, wire)
  if not account then return nil end
  redis.call('ZREM', ready_key(root, account, lane), id)
  redis.call('HSET', clocks_key(root), lane, time)
  if following then
    redis.call('ZINCRBY', lane_key(root, lane), 1, account)
  else
    leave_lane(root, account, lane, time + 1)
  end
  return account, id, record
end

local function is_any_ready(root, lanes)
  for _, lane in ipairs(lanes) do
    if redis.call('EXISTS', lane_key(root, lane)) == 1 then return true end
  end
  return false
end

local function claim(root, ask)
  local now, claimed = now_ms(), {}
  for _, lane in ipairs(ask.lanes) do
    while #claimed < ask.count do
      local account, id, record = pop(root, lane, ask.wire)
      if not account then break end
      table.insert(claimed, take(root, account, id, record, ask, now))
    end
  end
  if #claimed > 0 then redis.call('ZADD', holders_key(root), 0, ask.worker) end
  local is_more = is_any_ready(root, ask.lanes)
  if not is_more then redis.call('DEL', bell_key(root)) end
  return {now, is_more and #claimed == ask.count and 1 or 0, unpack(claimed)}
end

register('claim', claim)
