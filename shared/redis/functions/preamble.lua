-- What the functions share: the queue's moves, and the one way a generation ends.
--
-- Above this text stand, rendered from Python: one <name>_key(root, ...) for each family of keys.py that is shared,
-- TRANSITIONS of lifecycle.py, the failures EXPIRED, CRASHED and CANCELLED, DEAD_CATEGORIES (of failures that leave a
-- dead letter), AUTO (the word for a model that was not named), the events RESET (drops what was told) and RETRYING,
-- COMPANION_WIRE, LANE_BELL_WIRE and WIRE_BELL of submission.py, and TURNS_PER_CHUNK.
--
-- Every function takes a root (KEYS[1]) and one msgpack map, `ask`, and touches keys of that root only. Each checks all
-- before it writes anything, because nothing is rolled back, and may be repeated when its reply was lost.

-- What is no hash is no record.
local function load_flat(key)
  local flat = redis.pcall('HGETALL', key)
  if flat.err then
    if not string.find(flat.err, 'WRONGTYPE', 1, true) then error(flat, 0) end
    return nil
  end
  if #flat == 0 then return nil end
  local record = {}
  for i = 1, #flat, 2 do record[flat[i]] = flat[i + 1] end
  return record
end

local function load(root, account, id) return load_flat(generation_key(root, account, id)) end

-- How many an account has under way, and how many of these are of one lane.
local function unfinished_of(root, account, lane)
  local persons = redis.call('ZCARD', unfinished_key(root, account, 'interactive'))
  local batch = redis.call('ZCARD', unfinished_key(root, account, 'batch'))
  return persons + batch, lane == 'batch' and batch or persons
end

local function waiting_in(root, account, session)
  return redis.call('ZCARD', waiting_key(root, account, session))
end

local function is_final(generation) return next(TRANSITIONS[generation.stage]) == nil end

local function check_step(generation, stage)
  if not TRANSITIONS[generation.stage][stage] then
    error('ILLEGAL ' .. generation.stage .. ' to ' .. stage)
  end
end

local function turns_of(root, account, session, turn)
  return turns_key(root, account, session, int(math.floor(turn / TURNS_PER_CHUNK)))
end

-- Persons first.
local LANES = {'interactive', 'batch'}

-- A bell of another type is replaced: there is nothing in it to lose.
-- One ring wakes one worker that waits; so many wake all. A bell that nobody waits at is cut back now and then, not at
-- each ring.
local function ring_bell(bell)
  local rings_max, cut_at = 128, 144
  local length = redis.pcall('LPUSH', bell, '1')
  if type(length) ~= 'number' then
    redis.call('DEL', bell)
    redis.call('LPUSH', bell, '1')
  elseif length >= cut_at then
    redis.call('LTRIM', bell, 0, rings_max - 1)
  end
end

-- A wire that is newer than LANE_BELL_WIRE rings a bell of its own: workers that cannot read it never wait there.
local function ring(root, lane, wire)
  local is_newer = wire and tonumber(wire) > LANE_BELL_WIRE
  ring_bell(is_newer and bell_for_key(root, lane, WIRE_BELL .. wire) or bell_key(root, lane))
end

-- Of what an account may run at once; one at least.
local BATCH_SHARE = 0.75

-- How many an account runs: of each lane, and at most in all. Then its stride, if that is known.
local function running_of(root, account)
  return redis.call('HMGET', books_key(root, account), 'running_interactive', 'running_batch', 'running_most',
    'lane_stride')
end

-- Whether that is as many as it may of a lane: its batch leaves room for the person.
local function is_running_full(running, lane)
  if not running[3] then return false end
  local most, batch = tonumber(running[3]), tonumber(running[2] or 0)
  if lane == 'batch' and batch >= math.max(1, math.floor(most * BATCH_SHARE)) then return true end
  return tonumber(running[1] or 0) + batch >= most
end

local function is_at_its_most(root, account, lane) return is_running_full(running_of(root, account), lane) end

-- Of an account that nothing has been accepted for since strides are told.
local STRIDE_OF_BEFORE = 1000
local CLAIMS_AHEAD = 8

local function stride_of(root, account)
  return tonumber(redis.call('HGET', books_key(root, account), 'lane_stride')) or STRIDE_OF_BEFORE
end

-- Virtual time: an account joins its lane a little before the lane's clock, or where it left if that is later.
-- Who asked for nothing of late so has a few claims at once, and who comes and goes gets no more than a share.
-- One that runs as many as it may stays outside until one of them has ended.
local function time_to_join(root, lane, left, stride)
  local clock = tonumber(redis.call('HGET', clocks_key(root), lane) or 0)
  local early = clock - CLAIMS_AHEAD * tonumber(stride or STRIDE_OF_BEFORE)
  return int(math.max(early, tonumber(left or 0)))
end

-- Whether the account is in its lane, let in now if it was not.
local function is_in_lane(root, account, lane)
  local key = lane_key(root, lane)
  if redis.call('ZSCORE', key, account) then return true end
  local books = redis.call('HMGET', books_key(root, account), 'running_interactive', 'running_batch', 'running_most',
    'left_' .. lane, 'lane_stride')
  if is_running_full(books, lane) then return false end
  redis.call('ZADD', key, time_to_join(root, lane, books[4], books[5]), account)
  return true, true
end

-- Returns 1 for an account that was not in its lane and is now, else 0.
local function join_lane(root, account, lane, wire)
  local _, is_new_there = is_in_lane(root, account, lane)
  if not is_new_there then return 0 end
  ring(root, lane, wire)
  return 1
end

local function make_ready(root, account, id, lane, number, wire, is_known_there)
  redis.call('ZADD', ready_key(root, account, lane), number, id)
  if is_known_there or is_in_lane(root, account, lane) then ring(root, lane, wire) end
end

local function leave_lane(root, account, lane, at)
  redis.call('ZREM', lane_key(root, lane), account)
  redis.call('HSET', books_key(root, account), 'left_' .. lane, int(at))
end

local function unready(root, account, id, lane)
  local ready = ready_key(root, account, lane)
  if redis.call('ZREM', ready, id) == 0 or redis.call('EXISTS', ready) == 1 then return end
  local at = redis.call('ZSCORE', lane_key(root, lane), account)
  if at then leave_lane(root, account, lane, at) end
end

-- One event: kept in the stream and said on the channel, the same bytes in both.
local function emit(root, account, id, epoch, seq, event)
  local name = events_key(root, account, id)
  local at = int(epoch) .. '-' .. int(seq)
  redis.call('XADD', name, at, 'e', event)
  redis.call('PUBLISH', name, at .. ' ' .. event)
  return at
end

-- For parked turns of an account that could run no more there is a slot again. Who has a provider may have heard that
-- a circuit there is closed again, and listens to the provider's bell only. A line of another type holds nobody.
local function ring_lines(root, account, lines)
  for _, name in ipairs(lines) do
    local lane, resource = split(name)
    if type(redis.pcall('ZSCORE', parked_key(root, lane, resource), account)) == 'string' then
      ring_bell(bell_for_key(root, lane, string.match(resource, '^[^|]+')))
    end
  end
end

-- A lease that is gone gives its slot back to the account's count, which lets the account in again where it
-- had to stay outside; the second call finds nothing to give. Returns whether there was one.
local function drop_lease(root, account, id, lane)
  if redis.call('ZREM', leases_key(root), member(account, id)) == 0 then return false end
  -- Where it is of another type, there is none to ring for.
  local lines = redis.pcall('SMEMBERS', parked_lines_key(root))
  if #lines > 0 and is_at_its_most(root, account, lane) then ring_lines(root, account, lines) end
  redis.call('HINCRBY', books_key(root, account), 'running_' .. lane, '-1')
  if redis.call('EXISTS', ready_key(root, account, 'interactive'), ready_key(root, account, 'batch')) > 0 then
    damage.let_in(root, account)
  end
  return true
end

-- How the last attempts ended, a line each: number, begun, ended, worker, why. Returns all of them.
local ATTEMPTS_NOTED = 16

local function note_attempt(root, account, id, record, why, now)
  local lines = {}
  for line in string.gmatch(record.history or '', '[^\n]+') do table.insert(lines, line) end
  local words = {record.attempt, record.started or '0', int(now), record.worker or '-', why}
  table.insert(lines, table.concat(words, ' '))
  local history = table.concat(lines, '\n', math.max(1, #lines - ATTEMPTS_NOTED + 1))
  redis.call('HSET', generation_key(root, account, id), 'history', history)
  return history
end

-- An attempt is over, and the next one waits. Whoever calls this takes the lease away, so the attempt's next
-- number is nobody else's: followers are told under it.
local function retry_later(root, account, id, record, why)
  check_step(record, 'retrying')
  note_attempt(root, account, id, record, why, now_ms())
  local key, seq = generation_key(root, account, id), tonumber(record.seq or 0) + 1
  redis.call('HDEL', key, 'worker')
  redis.call('HSET', key, 'stage', 'retrying', 'seq', int(seq))
  emit(root, account, id, record.attempt, seq, RETRYING)
end

-- Where what is tried again waits, and what follows when a suspect has completed: suspects.lua.
local queue_up, acquit

-- An attempt ends as if it had never begun: to the front of the line again.
local function give_back(root, account, id, record, why)
  check_step(record, 'queued')
  note_attempt(root, account, id, record, why, now_ms())
  local key = generation_key(root, account, id)
  redis.call('HDEL', key, 'worker')
  redis.call('HSET', key, 'stage', 'queued')
  redis.call('HINCRBY', key, 'drains', 1)
  queue_up(root, account, id, record)
  drop_lease(root, account, id, record.lane)
end

local FOLLOWING_TRIED = 1000

-- The head of a session leaves and the next turn moves up; a turn that waits just leaves the line.
local function leave_session(root, account, id, session, head)
  local key = session_key(root, account, session)
  local waiting = waiting_key(root, account, session)
  if head ~= id then
    redis.call('ZREM', waiting, id)
    return
  end
  for _ = 1, FOLLOWING_TRIED do
    local following = redis.pcall('ZPOPMIN', waiting)[1]
    if not following then
      redis.call('HDEL', key, 'head', 'pending')
      return
    end
    redis.call('HSET', key, 'head', following)
    local record = redis.pcall('HMGET', generation_key(root, account, following), 'lane', 'number', 'wire')
    local is_made, problem = pcall(make_ready, root, account, following, unpack(record))
    if is_made or damage.is_lane_wrong(root, record[1]) then return end
    damage.drop_following(root, account, following, problem)
  end
end

-- Defined with the lines of parked turns.
local unpark

-- A dead letter and its place in the list go together. Returns whether there was one.
local function drop_letter(root, account, id)
  local is_listed = redis.call('ZREM', dead_key(root), member(account, id))
  return is_listed + redis.call('UNLINK', letter_key(root, account, id)) > 0
end

-- The oldest dead letters go: what is past its time, and what is too many. So many in one go at most.
local TRIMMED_MAX = 100

local function trim_dead(root, now, keep)
  local key, dead_ms, dead_max = dead_key(root), keep[3], keep[4]
  local excess = redis.call('ZCARD', key) - dead_max
  local oldest = redis.call('ZRANGE', key, 0, TRIMMED_MAX - 1, 'WITHSCORES')
  for i = 1, #oldest, 2 do
    if tonumber(oldest[i + 1]) > now - dead_ms and excess <= 0 then return end
    drop_letter(root, split(oldest[i]))
    excess = excess - 1
  end
end

-- What failed for no fault of its caller is kept, with all that asking it again takes.
local function bury(root, account, id, generation, ending)
  local key, failure = letter_key(root, account, id), ending.failure
  redis.call('HSET', key, 'session', generation.session, 'turn', generation.turn, 'lane', generation.lane,
    'model', generation.model, 'wire', generation.wire, 'attempt', generation.attempt, 'hold', generation.hold,
    'key', generation.key or '', 'accepted', generation.accepted, 'died', int(ending.now),
    'deadline', int(tonumber(generation.deadline) - tonumber(generation.accepted)),
    'failure', cmsgpack.pack(failure),
    'attempts', note_attempt(root, account, id, generation, failure.code, ending.now),
    'submission', redis.call('GET', submission_key(root, account, id)) or '',
    'message', redis.call('HGET', turns_of(root, account, generation.session, generation.turn),
      generation.turn .. ':u') or '')
  if ending.chosen then redis.call('HSET', key, 'chosen', ending.chosen) end
  redis.call('PEXPIRE', key, int(ending.keep[3]))
  redis.call('ZADD', dead_key(root), int(ending.now), member(account, id))
  trim_dead(root, ending.now, ending.keep)
end

-- The session has its answer. It counts what its completed turns take when they are sent again, from the first on or
-- from one that read all before it; and where more than one turn is under way, what those may add.
local function note_answer(session, generation, ending, now, tokens, pending, bytes)
  bytes = int((tonumber(bytes) or 0) + #ending.assistant)
  if ending.history then
    local added, before, is_all = ending.history[1], ending.history[2], ending.history[3]
    if not is_all then before = math.max(before, tonumber(tokens) or 0) end
    redis.call('HSET', session, 'active', now, 'bytes', bytes, 'tokens', int(before + added))
  elseif not tokens and generation.turn == '1' then
    redis.call('HSET', session, 'active', now, 'bytes', bytes, 'tokens', '0')
  else
    redis.call('HSET', session, 'active', now, 'bytes', bytes)
  end
  if pending then
    redis.call('HSET', session, 'pending', int(math.max(0, tonumber(pending) - tonumber(generation.added or 0))))
  end
end

-- The one way a generation ends, whoever ends it. `ending` holds: stage; assistant (the message's record);
-- event (JSON) with its epoch and seq; cost in microcredits; keep = {record, events, dead letter} in ms and how
-- many dead letters; now in ms; where something was used, meter = {model, input, output, reasoning}; where it
-- failed, failure and, if known, the chosen model; the events that were not yet told, if any; where it completed, history = {tokens that it adds, tokens read
-- before it, whether that was all}. Returns the captured microcredits.
local function finish(root, account, id, generation, ending)
  check_step(generation, ending.stage)
  local key, now = generation_key(root, account, id), int(ending.now)
  local session = session_key(root, account, generation.session)
  -- A session in which something is under way has a head; one without was deleted.
  local head, tokens, pending, bytes, side = unpack(redis.pcall('HMGET', session, 'head', 'tokens', 'pending', 'bytes', 'side'))
  -- What all of a partition share comes before the books: where it is of another type, nothing is written.
  redis.call('ZCARD', lane_key(root, generation.lane))
  if ending.stage ~= 'completed' then damage.check_end(root) end
  redis.call('HINCRBY', clocks_key(root), 'ended', '1')
  redis.call('ZREM', deadlines_key(root), member(account, id))
  local captured = settle_books(root, account, id, generation, ending, side, head and #ending.assistant or 0)
  if ending.meter then count_use(root, account, generation, ending, captured) end
  -- What was leased is neither ready nor deferred.
  if not drop_lease(root, account, id, generation.lane) then
    unready(root, account, id, generation.lane)
    for _, key in ipairs({deferred_key(root), suspects_key(root)}) do redis.call('ZREM', key, member(account, id)) end
  end
  unpark(root, account, id, generation)
  redis.call('ZREM', unfinished_key(root, account, generation.lane), id)
  if head then
    redis.call('HSET', turns_of(root, account, generation.session, generation.turn),
      generation.turn .. ':a', ending.assistant)
    note_answer(session, generation, ending, now, tokens, pending, bytes)
    redis.call('ZADD', sessions_key(root, account), now, generation.session)
    if ending.stage == 'failed' and ending.failure and DEAD_CATEGORIES[ending.failure.category] then
      bury(root, account, id, generation, ending)
    end
    leave_session(root, account, id, generation.session, head)
  end
  -- What was not yet appended is in the message; followers are told.
  for i, event in ipairs(ending.events or {}) do
    emit(root, account, id, ending.epoch, ending.seq - #ending.events + i - 1, event)
  end
  local last = emit(root, account, id, ending.epoch, ending.seq, ending.event)
  redis.call('PEXPIRE', events_key(root, account, id), int(ending.keep[2]))
  redis.call('DEL', submission_key(root, account, id), text_key(root, account, id))
  redis.call('HDEL', key, 'hold', 'number', 'deadline', 'worker', 'seq', 'progress', 'key', 'calls', 'claim', 'bill',
    'added', 'before', 'routed')
  if ending.stage ~= 'completed' or generation.history or generation.cancel or generation.waits then
    redis.call('HDEL', key, 'cancel', 'drains', 'waits', 'history', 'crashes', 'company', 'falls', 'mixed')
  end
  if generation.crashes and ending.stage == 'completed' then acquit(root, generation, ending.now) end
  redis.call('HSET', key, 'stage', ending.stage, 'finished', now, 'captured', int(captured), 'last', last)
  redis.call('PEXPIRE', key, int(ending.keep[1]))
  return captured
end

-- An end that no worker reports: the text so far is the answer, the next epoch's first event says why.
local function end_from_outside(root, account, id, generation, stage, failure, keep)
  local now = now_ms()
  local event = {type = stage}
  if failure and stage == 'failed' then event.failure = failure end
  local usage, model = read_bill(generation, failure)
  return finish(root, account, id, generation, {
    stage = stage,
    assistant = cmsgpack.pack({
      status = stage,
      content = redis.call('GET', text_key(root, account, id)) or '',
      created = now,
      failure = failure,
      usage = usage,
    }),
    event = cjson.encode(event),
    epoch = tonumber(generation.attempt) + 1,
    seq = 1,
    cost = usage and usage.cost or 0,
    meter = usage and {
      model = model, input = usage.input_tokens, output = usage.output_tokens, reasoning = usage.reasoning_tokens,
    },
    keep = keep,
    failure = failure,
    now = now,
  })
end

-- An old key may have been used again since, for what is not of this session.
local function forget_receipt(root, account, idempotency, field, id)
  if not idempotency then return end
  local receipt = idempotency_key(root, account, idempotency)
  if redis.call('HGET', receipt, field) == id then redis.call('DEL', receipt) end
end

-- Cancel what waits, ask the worker to stop what runs. Returns 'cancelled' with the credits given back,
-- or 'pending'. Where no worker lives, nobody renews a lease that has expired, and nobody stops.
local function cancel_one(root, account, id, generation, keep, channels, is_abandoned)
  local lease = generation.worker and redis.call('ZSCORE', leases_key(root), member(account, id))
  if lease and not (is_abandoned and tonumber(lease) <= now_ms()) then
    redis.call('HSET', generation_key(root, account, id), 'cancel', '1')
    redis.call('PUBLISH', channels .. generation.worker, member(account, id))
    return 'pending'
  end
  local captured = end_from_outside(root, account, id, generation, 'cancelled', CANCELLED, keep)
  return 'cancelled', tonumber(generation.hold) - captured
end
