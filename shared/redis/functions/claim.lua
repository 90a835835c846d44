-- claim: give up to `count` ready generations to a worker, each with a lease and a fencing token.
-- ASK      worker, wire, count, batch (at most so many of them are of that lane), lease_ms, keep, claim (its
--          number among the worker's); if any: unheard (the numbers of earlier ones, of which no reply came)
-- RETURNS  {now ms, 1 if more may be ready, {account, id, lane, attempt, turn, hold, deadline ms, accepted ms,
--          retries, calls, submission, user message, the session's system prompt and companion}...}
-- ATOMIC   because two workers must never get the same generation under the same token, and a generation
--          that left the queue without a lease would be nobody's.
-- A reply that is lost leaves generations with a worker that does not know of them: nobody repeats the call,
-- but the worker's next one names it, and gives them back before anything is taken.
-- When nothing is ready, no ring is due to anybody: the bell is emptied, so that no worker wakes for nothing.
-- Who waits for an answer goes first. But of so many claims that a batch has to look on at, one is its own:
-- it never starves.
-- A later attempt begins by dropping what was told: the text and, as its first event, the stream at once.
-- What is tried for hours is told of its last attempts only; the reset of any of them drops all before it.

local ACCOUNTS_TRIED = 64
local TRICKLE = 20
local ATTEMPTS_TOLD = 64
-- What has expired in the line is ended on the way, so many in one call: the server serves nobody meanwhile.
local ENDED_MAX = 64

-- Of the lanes of which it runs as many as it may.
local function stay_outside(root, account)
  for _, lane in ipairs(LANES) do
    local at = is_at_its_most(root, account, lane) and redis.call('ZSCORE', lane_key(root, lane), account)
    if at then leave_lane(root, account, lane, at) end
  end
end

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
    'worker', ask.worker, 'claim', ask.claim, 'started', int(now), 'seq', is_again and '1' or '0', 'progress', '0')
  redis.call('ZADD', leases_key(root), int(now + ask.lease_ms), member(account, id))
  redis.call('HINCRBY', books_key(root, account), 'running_' .. record.lane, 1)
  stay_outside(root, account)
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
local function ready_from(root, lane, wire, first)
  for place = first, first + ACCOUNTS_TRIED - 1 do
    local account, time = unpack(redis.call('ZRANGE', lane_key(root, lane), place, place, 'WITHSCORES'))
    if not account then return nil end
    local id, following = unpack(redis.call('ZRANGE', ready_key(root, account, lane), 0, 1))
    local record = load(root, account, id)
    if not record or tonumber(record.wire) <= wire then return account, time, id, record, following end
  end
end

-- Where all of the first wait for another worker, as many of those behind them are tried, each time others.
local function first_ready(root, lane, wire)
  local account, time, id, record, following = ready_from(root, lane, wire, 0)
  local behind = redis.call('ZCARD', lane_key(root, lane)) - ACCOUNTS_TRIED
  if account or behind <= 0 then return account, time, id, record, following end
  return ready_from(root, lane, wire, ACCOUNTS_TRIED + now_us() % behind)
end

-- The lane's clock never goes back, whoever is let in before it.
local function tick(root, lane, time)
  local key = clocks_key(root)
  if time > tonumber(redis.call('HGET', key, lane) or 0) then redis.call('HSET', key, lane, int(time)) end
end

-- It leaves the line, and its account moves on by its stride: the more weight it has, the shorter.
local function pop(root, lane, wire)
  local account, time, id, record, following = first_ready(root, lane, wire)
  if not account then return nil end
  redis.call('ZREM', ready_key(root, account, lane), id)
  tick(root, lane, tonumber(time))
  local stride = stride_of(root, account)
  if following then
    redis.call('ZINCRBY', lane_key(root, lane), stride, account)
  else
    leave_lane(root, account, lane, time + stride)
  end
  return account, id, record
end

local function is_ready(root, lane) return redis.call('EXISTS', lane_key(root, lane)) == 1 end

-- Take one from the first of these lanes that has one. Returns the lane, and what a worker is handed.
local function take_from(root, lanes, ask, now)
  for _, lane in ipairs(lanes) do
    local account, id, record = pop(root, lane, ask.wire)
    if account then return lane, take(root, account, id, record, ask, now) end
  end
end

local PERSONS_FIRST, PERSONS_ONLY, BATCH_FIRST = LANES, {'interactive'}, {'batch', 'interactive'}

-- How often a batch has looked on since one of its own was taken; nil when none waits.
local function looked_on(root)
  return is_ready(root, 'batch') and tonumber(redis.call('HGET', clocks_key(root), 'looked_on') or 0) or nil
end

local function give_back_unheard(root, ask)
  local is_unheard = {}
  for _, number in ipairs(ask.unheard) do is_unheard[tostring(number)] = true end
  for _, name in ipairs(redis.call('ZRANGE', leases_key(root), 0, -1)) do
    local account, id = split(name)
    local worker, number = unpack(redis.call('HMGET', generation_key(root, account, id), 'worker', 'claim'))
    if worker == ask.worker and is_unheard[number] then
      local record = load(root, account, id)
      if record.cancel then
        end_from_outside(root, account, id, record, 'cancelled', CANCELLED, ask.keep)
      else
        give_back(root, account, id, record, 'UNHEARD')
      end
    end
  end
end

local function claim(root, ask)
  if ask.unheard then give_back_unheard(root, ask) end
  local now, claimed, ended, batch = now_ms(), {}, 0, ask.batch
  local before = looked_on(root)
  local passed = before
  while #claimed < ask.count and ended < ENDED_MAX do
    local order = PERSONS_FIRST
    if batch <= 0 then
      order = PERSONS_ONLY
    elseif passed and passed >= TRICKLE - 1 then
      order = BATCH_FIRST
    end
    local lane, taken = take_from(root, order, ask, now)
    if not lane then break end
    if taken then
      if lane == 'batch' then batch = batch - 1 end
      if passed then passed = lane == 'batch' and 0 or passed + 1 end
      table.insert(claimed, taken)
    else
      ended = ended + 1
    end
  end
  if passed ~= before then redis.call('HSET', clocks_key(root), 'looked_on', passed) end
  if #claimed > 0 then redis.call('ZADD', holders_key(root), 0, ask.worker) end
  local is_more = false
  for _, lane in ipairs(LANES) do
    if not is_ready(root, lane) then
      redis.call('DEL', bell_key(root, lane))
    elseif lane == 'interactive' or batch > 0 then
      is_more = true
    end
  end
  local is_enough = #claimed == ask.count or ended == ENDED_MAX
  return {now, is_more and is_enough and 1 or 0, unpack(claimed)}
end

register('claim', claim)
