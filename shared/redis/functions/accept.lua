-- accept: take one message in, whole or not at all.
-- ASK      account, generation, session, is_new, message, content, blob (the submission), lane, wire, model, hold,
--          deadline_ms, per_minute, unfinished_max, total_max, on_conflict, keep, channels; if given:
--          name, system_prompt, metadata, project, idempotency, fingerprint, idempotency_ms
-- RETURNS  {'accepted', turn, accepted ms, ahead, unfinished, rate}, {'replayed', generation, session},
--          {'mismatch'}, {'no_session'}, {'busy', generation}, {'limited', rate}, {'crowded', rate},
--          {'full', rate} or {'poor', balance, rate}; rate = {limit, remaining, reset ms, retry ms}
-- ATOMIC   because the limit, the hold, the turn and the place in the queue stand or fall together, and a
--          repeated request must find either all of it or nothing.

-- GCRA: `arrival` is the time at which the account would be idle again if it kept to its rate.
local function take_rate(root, ask)
  local key, now = submissions_key(root, ask.account), now_us()
  local interval = 60000000 / ask.per_minute
  local window = interval * ask.per_minute
  local arrival = math.max(tonumber(redis.call('GET', key) or 0), now) + interval
  local over = arrival - now - window
  if over > 0 then
    return {ask.per_minute, 0, math.ceil((arrival - interval - now) / 1000), math.ceil(over / 1000)}, false
  end
  redis.call('SET', key, int(arrival), 'PX', int(math.ceil((arrival - now) / 1000) + 1000))
  local remaining = math.floor((window - (arrival - now)) / interval + 0.000001)
  return {ask.per_minute, remaining, math.ceil((arrival - now) / 1000), 0}, true
end

local function find_replay(root, ask)
  if not ask.idempotency then return nil end
  local stored = redis.call('HMGET', idempotency_key(root, ask.account, ask.idempotency),
    'fingerprint', 'generation', 'session')
  if not stored[1] then return nil end
  if stored[1] ~= ask.fingerprint then return {'mismatch'} end
  return {'replayed', stored[2], stored[3]}
end

local function interrupt(root, ask, head)
  local waiting = redis.call('ZRANGE', waiting_key(root, ask.account, ask.session), 0, -1)
  for i = #waiting, 1, -1 do
    cancel_one(root, ask.account, waiting[i], load(root, ask.account, waiting[i]), ask.keep, ask.channels)
  end
  cancel_one(root, ask.account, head, load(root, ask.account, head), ask.keep, ask.channels)
end

local function open_session(root, ask, now)
  local key = session_key(root, ask.account, ask.session)
  if ask.is_new then
    redis.call('HSET', key, 'name', ask.name, 'created', int(now))
    if ask.system_prompt then redis.call('HSET', key, 'system', ask.system_prompt) end
  end
  redis.call('HSET', key, 'active', int(now))
  redis.call('ZADD', sessions_key(root, ask.account), int(now), ask.session)
  return redis.call('HINCRBY', key, 'turns', 1), redis.call('HGET', key, 'head')
end

local function store(root, ask, turn, number, now)
  redis.call('HSET', turns_of(root, ask.account, ask.session, turn), int(turn) .. ':u', cmsgpack.pack({
    id = ask.message,
    generation = ask.generation,
    content = ask.content,
    created = now,
    metadata = ask.metadata,
    project = ask.project,
  }))
  redis.call('SET', submission_key(root, ask.account, ask.generation), ask.blob)
  redis.call('HSET', generation_key(root, ask.account, ask.generation),
    'stage', 'queued', 'session', ask.session, 'turn', int(turn), 'lane', ask.lane, 'model', ask.model,
    'wire', int(ask.wire), 'number', int(number), 'accepted', int(now),
    'deadline', int(now + ask.deadline_ms), 'hold', int(ask.hold), 'attempt', '0')
  if ask.idempotency then
    local key = idempotency_key(root, ask.account, ask.idempotency)
    redis.call('HSET', key, 'fingerprint', ask.fingerprint, 'generation', ask.generation, 'session', ask.session)
    redis.call('PEXPIRE', key, int(ask.idempotency_ms))
    redis.call('HSET', generation_key(root, ask.account, ask.generation), 'idempotency', ask.idempotency)
  end
end

local function enqueue(root, ask, turn, head, number, now)
  redis.call('ZADD', deadlines_key(root), int(now + ask.deadline_ms), member(ask.account, ask.generation))
  redis.call('ZADD', unfinished_key(root, ask.account, ask.lane), int(number), ask.generation)
  if head then
    redis.call('ZADD', waiting_key(root, ask.account, ask.session), int(turn), ask.generation)
  else
    redis.call('HSET', session_key(root, ask.account, ask.session), 'head', ask.generation)
    make_ready(root, ask.account, ask.generation, ask.lane, int(number))
  end
end

local function crowding(root, ask, unfinished)
  if unfinished >= ask.unfinished_max then return 'crowded' end
  if redis.call('ZCARD', deadlines_key(root)) >= ask.total_max then return 'full' end
  return nil
end

local function accept(root, ask)
  if redis.call('EXISTS', generation_key(root, ask.account, ask.generation)) == 1 then
    return {'replayed', ask.generation, ask.session}
  end
  local replay = find_replay(root, ask)
  if replay then return replay end
  local session = session_key(root, ask.account, ask.session)
  if not ask.is_new and redis.call('EXISTS', session) == 0 then return {'no_session'} end
  local busy = redis.call('HGET', session, 'head')
  if busy and ask.on_conflict == 'reject' then return {'busy', busy} end
  local rate, in_time = take_rate(root, ask)
  if not in_time then return {'limited', rate} end
  local unfinished = unfinished_of(root, ask.account)
  local crowd = crowding(root, ask, unfinished)
  if crowd then return {crowd, rate} end
  local books = books_key(root, ask.account)
  local balance = tonumber(redis.call('HGET', books, 'balance') or 0)
  if balance < ask.hold then return {'poor', int(balance), rate} end

  if busy and ask.on_conflict == 'interrupt' then interrupt(root, ask, busy) end
  local now = now_ms()
  if ask.hold > 0 then
    redis.call('HINCRBY', books, 'balance', int(-ask.hold))
    redis.call('HINCRBY', books, 'held', int(ask.hold))
  end
  local turn, head = open_session(root, ask, now)
  local number = redis.call('HINCRBY', clocks_key(root), 'number', 1)
  store(root, ask, turn, number, now)
  enqueue(root, ask, turn, head, number, now)
  local rank = redis.call('ZRANK', unfinished_key(root, ask.account, ask.lane), ask.generation)
  local running = tonumber(redis.call('HGET', books, 'running_' .. ask.lane) or 0)
  return {'accepted', turn, now, math.max(0, rank - running), unfinished + 1, rate}
end

register('accept', accept)
