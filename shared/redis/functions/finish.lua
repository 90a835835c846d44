-- Shared: the one way a generation ends, and a cancel.

-- Defined in parking.lua.
local unpark

-- Updates the session's counts for an answered turn. `tokens` is what its completed turns take when they are sent
-- again; it is known once an answer read all turns before it (or for the first turn). `pending` is what the turns under
-- way may add to it; it exists only while more than one is under way.
local function update_session(session, generation, ending, now, tokens, pending, bytes)
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

-- Stores the assistant's message of a generation of a session, or of one without (`is_alone`). That of an `item` of a
-- batch stays until its chunk is packed.
local function store_answer(root, account, id, generation, ending, is_alone, item)
  local chunk = turns_chunk_key(root, account, generation.session, generation.turn)
  redis.call('HSET', chunk, generation.turn .. ':a', ending.assistant)
  if item then
    redis.call('PERSIST', chunk)
  elseif is_alone then
    redis.call('PEXPIRE', chunk, int(ending.keep[1]))
    -- `restore` of a version that knows only sessions has put it behind a head that there is not.
    redis.call('ZREM', waiting_key(root, account, generation.session), id)
  end
  if ending.stage == 'failed' and ending.failure and DEAD_CATEGORIES[ending.failure.category] then
    write_dead_letter(root, account, id, generation, ending)
  end
end

-- Ends a generation, whoever ends it. `ending` holds: stage; assistant (the message's record); event (JSON) with its
-- epoch and seq; cost in microcredits; keep (KeepTimes: ms of the record, of the events, of a dead letter, and how many
-- dead letters); now in ms. If tokens were used: meter = {model, input, output, reasoning}. If it failed: failure, and
-- chosen (the model asked last) where known. If the worker had events left to append: events. If it completed:
-- history = {tokens that the turn adds, tokens read before it, whether that was all}.
-- Returns the captured microcredits, and what a worker shall do next, if anything: for the batch of an item
-- (`batches.note_end`), else 4, deliver the event.
local function finish_generation(root, account, id, generation, ending)
  check_transition(generation, ending.stage)
  local key, now = generation_key(root, account, id), int(ending.now)
  local item, hint = generation.batch and batches.find_item(root, account, id, generation)
  local session, is_alone = session_key(root, account, generation.session), has_no_session(id, generation)
  -- A session with a turn under way has a head; one without was deleted.
  local head, tokens, pending, bytes, side
  if not is_alone then
    head, tokens, pending, bytes, side =
      unpack(redis.pcall('HMGET', session, 'head', 'tokens', 'pending', 'bytes', 'side'))
  end
  -- Keys that the whole partition shares come before the credits: where one is of another type, nothing is written.
  redis.call('ZCARD', lane_key(root, generation.lane))
  if ending.stage ~= 'completed' then damage.check_end(root) end
  redis.call('HINCRBY', clocks_key(root), 'ended', '1')
  redis.call('ZREM', deadlines_key(root), member(account, id))
  local captured, is_watched =
    settle_credits(root, account, id, generation, ending, side, head and #ending.assistant or 0, item)
  if item then
    hint = batches.note_end(root, account, item, ending.stage, ending.failure, captured, ending.cost - captured,
      ending.now)
  end
  if ending.meter then count_usage(root, account, generation, ending, captured) end
  -- A leased generation is neither ready nor deferred.
  if not end_lease(root, account, id, generation.lane) then
    remove_ready(root, account, id, generation.lane)
    for _, set_key in ipairs({deferred_key(root), suspects_key(root)}) do
      redis.call('ZREM', set_key, member(account, id))
    end
  end
  unpark(root, account, id, generation)
  redis.call('ZREM', unfinished_key(root, account, generation.lane), id)
  if head or is_alone then store_answer(root, account, id, generation, ending, is_alone, item) end
  if head then
    update_session(session, generation, ending, now, tokens, pending, bytes)
    redis.call('ZADD', sessions_key(root, account), now, generation.session)
    advance_session(root, account, id, generation.session, head)
  end
  -- The message has the text of these events; followers still need the events themselves.
  for i, event in ipairs(ending.events or {}) do
    append_event(root, account, id, ending.epoch, ending.seq - #ending.events + i - 1, event)
  end
  local last = append_event(root, account, id, ending.epoch, ending.seq, ending.event)
  redis.call('PEXPIRE', events_key(root, account, id), int(ending.keep[2]))
  redis.call('DEL', submission_key(root, account, id), text_key(root, account, id))
  rounds.delete(root, account, id, generation)
  redis.call('HDEL', key, 'hold', 'number', 'deadline', 'worker', 'seq', 'progress', 'key', 'calls', 'claim', 'bill',
    'added', 'before', 'routed')
  if ending.stage ~= 'completed' or generation.history or generation.cancel or generation.waits then
    redis.call('HDEL', key, 'cancel', 'drains', 'waits', 'history', 'crashes', 'company', 'falls', 'mixed')
  end
  if generation.crashes and ending.stage == 'completed' then extend_storm_if_blamed(root, generation, ending.now) end
  redis.call('HSET', key, 'stage', ending.stage, 'finished', now, 'captured', int(captured), 'last', last)
  if item then return captured, hint end
  redis.call('PEXPIRE', key, int(ending.keep[1]))
  local is_reported =
    account_log.append_end(root, account, id, generation, ending.stage, ending.now, ending.keep, is_watched)
  return captured, is_reported and 4 or nil
end

-- Ends a generation without its worker: the text so far becomes the answer, and the first event of the next epoch says
-- how it ended.
local function end_without_worker(root, account, id, generation, stage, failure, keep)
  local now = now_ms()
  local event = {type = stage}
  if failure and stage == 'failed' then event.failure = failure end
  local usage, model = parse_bill(generation, failure)
  return finish_generation(root, account, id, generation, {
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

-- Deletes the record of an Idempotency-Key, unless the key has been used again since and now stands for something else.
local function delete_idempotency_record(root, account, idempotency, field, id)
  if not idempotency then return end
  local receipt = idempotency_key(root, account, idempotency)
  if redis.call('HGET', receipt, field) == id then redis.call('DEL', receipt) end
end

-- Ends a generation that waits; asks the worker to stop one that runs. Returns 'cancelled' with the microcredits that
-- went back to the balance, or 'pending'. With `is_abandoned` no worker is alive: a lease that has expired will not be
-- renewed, so the generation is ended at once.
local function cancel_generation(root, account, id, generation, keep, channels, is_abandoned)
  local lease = generation.worker and redis.call('ZSCORE', leases_key(root), member(account, id))
  if lease and not (is_abandoned and tonumber(lease) <= now_ms()) then
    redis.call('HSET', generation_key(root, account, id), 'cancel', '1')
    redis.call('PUBLISH', channels .. generation.worker, member(account, id))
    return 'pending'
  end
  local captured = end_without_worker(root, account, id, generation, 'cancelled', CANCELLED, keep)
  return 'cancelled', tonumber(generation.hold) - captured
end
