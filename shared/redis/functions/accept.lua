-- accept: take in one message, completely or not at all.
-- ASK      account, key (the API key's id), generation, is_new, message, content, blob (the submission), lane, wire,
--          model, hold, deadline_ms, per_minute, unfinished_max, waiting_max (in its session), running_max, stride (of
--          its account in virtual time), total_max, slots (of all workers; 0: unknown), rounds_max (how often all slots
--          can be used before the deadline), sessions_max and stored_bytes_max (quotas); if given: session (otherwise
--          the generation has none), on_conflict ('reject' or 'interrupt', with keep and channels), input_price
--          (microcredits a token), history_max (how many tokens of a history have room), added (tokens that this turn
--          adds to the history at most), persona (tokens of a session's companion at most), budget (the caller's own
--          limit) and least (what the cheapest answer costs), name, system_prompt, companion, metadata, project, media,
--          idempotency, fingerprint, idempotency_ms, origin (hashes of the request, kept with it),
--          webhook (the URL to which its end is reported)
-- RETURNS  {'accepted', turn, accepted ms, ahead, lane_accounts, session_turns_before, running, 1 if it is behind its
--          session's head, ms since that head started (-1: it waits, too), unfinished, rate},
--          {'replayed', generation, session ('': it has none)}, {'mismatch'}, {'no_session'}, {'busy', generation},
--          {'limited', rate}, {'crowded', rate}, {'quota', which, how much of it is used, rate}, {'waiting', rate},
--          {'late', rate}, {'full', rate}, {'unpaid', least, rate} (the budget is below the price of what would be
--          sent), or {'poor', balance, hold, rate}; rate is what take_rate returns
-- ATOMIC   because the limit, the hold, the turn and the place in the queue are stored together or not at all, and a
--          repeated request must find either all of them or none.
-- A turn with a companion, its own or its session's, is left to workers that know companions.

-- A message that cannot be answered before its deadline is rejected. `ahead` of the account's own turns come first;
-- they get 1 / lane_accounts of the slots, at most running_max at once, and those of one session run one by one.
-- Example: 30 ahead, 4 accounts, 20 slots: the workers need 30 * 4 / 20 = 6 rounds; with rounds_max 5 the message is
-- late.
local function misses_deadline(ask, ahead, lane_accounts, session_turns_before)
  if ask.slots == 0 then return false end
  local needed = math.max(ahead * lane_accounts / ask.slots, ahead / ask.running_max, session_turns_before)
  return math.floor(needed) > ask.rounds_max
end

local function find_replay(root, ask)
  if not ask.idempotency then return nil end
  local fingerprint, generation, session = unpack(redis.call('HMGET',
    idempotency_key(root, ask.account, ask.idempotency), 'fingerprint', 'generation', 'session'))
  if not fingerprint then return nil end
  if fingerprint ~= ask.fingerprint then return {'mismatch'} end
  return {'replayed', generation, session}
end

-- A session that an older process wrote has no token count until its next answer. Until then the count is estimated, on
-- the high side, from the size of its last CHUNKS_SAMPLED chunks; earlier ones are taken to be of the same size.
local CHUNKS_SAMPLED = 64

local function estimate_history(root, ask, turns)
  local last_chunk, bytes_enough = math.floor(turns / TURNS_PER_CHUNK), (ask.history_max or 0) * BYTES_PER_TOKEN
  if bytes_enough <= 0 or turns <= 0 then return 0 end
  local chunk, bytes = last_chunk, 0
  while chunk >= 0 and last_chunk - chunk < CHUNKS_SAMPLED and bytes < bytes_enough do
    local key = turns_key(root, ask.account, ask.session, int(chunk))
    for turn = math.max(1, chunk * TURNS_PER_CHUNK), math.min(turns, (chunk + 1) * TURNS_PER_CHUNK - 1) do
      bytes = bytes + redis.call('HSTRLEN', key, turn .. ':u') + redis.call('HSTRLEN', key, turn .. ':a')
    end
    chunk = chunk - 1
  end
  if chunk >= 0 then bytes = bytes * (last_chunk + 1) / (last_chunk - chunk) end
  return tokens_in(bytes) + 2 * TOKENS_PER_MESSAGE * turns
end

-- Returns how many tokens are sent beside the message: completed turns, what the turns under way may add, the system
-- prompt and the companion. No more than have room, since the rest is left out.
local function count_history(root, ask, completed_turns, session)
  local tokens = (session.pending_tokens or 0)
    + (tonumber(session.tokens) or estimate_history(root, ask, completed_turns))
  if session.system then tokens = tokens + tokens_in(#session.system) end
  if session.companion and not ask.companion then tokens = tokens + (ask.persona or 0) end
  return math.min(tokens, ask.history_max or 0)
end

-- Adds the history's price to the hold, which covers all that will be sent. Returns what the budget would have to be,
-- if it is less. Example: 2000 tokens at 1.5 microcredits add 3000 to the hold; a budget caps the hold.
local function add_history_price(ask, history)
  local history_price = math.ceil(history * (ask.input_price or 0))
  ask.hold = ask.hold + history_price
  if not ask.budget then return nil end
  local least = (ask.least or 0) + history_price
  if least > ask.budget then return least end
  ask.hold = math.min(ask.hold, ask.budget)
end

-- Returns the holds that an interrupt frees: first those of turns that no worker answers, then that of the turn being
-- answered, each less what is due for the text so far.
local function freed_by_interrupt(root, ask, head)
  local ids, waiting, running = redis.call('ZRANGE', waiting_key(root, ask.account, ask.session), 0, -1), 0, 0
  table.insert(ids, head)
  for _, id in ipairs(ids) do
    local hold, worker, bill, attempt = unpack(redis.pcall('HMGET', generation_key(root, ask.account, id),
      'hold', 'worker', 'bill', 'attempt'))
    local due = parse_bill({bill = bill, attempt = attempt}, CANCELLED)
    local freed_hold = math.max(0, (tonumber(hold) or 0) - (due and due.cost or 0))
    if worker then running = running + freed_hold else waiting = waiting + freed_hold end
  end
  return waiting, running
end

-- Returns how many tokens turns under way may add to the history. A lone turn's are not counted in `pending`, but in
-- its own record. Turns that an interrupt ends add nothing; but a leased one is only asked to stop, and may complete
-- before.
local function count_pending_tokens(root, ask, head, pending)
  if ask.on_conflict == 'interrupt' then
    if not redis.call('ZSCORE', leases_key(root), member(ask.account, head)) then return 0 end
  elseif pending then
    return tonumber(pending)
  end
  return tonumber(redis.call('HGET', generation_key(root, ask.account, head), 'added')) or 0
end

local function cancel_checked(root, account, id, keep, channels)
  local record = load_generation(root, account, id)
  damage.check(record)
  cancel_generation(root, account, id, record, keep, channels)
end

-- Returns the balance that a hold may use, and whether that includes the hold of the answer under way, which an
-- interrupt then has to end at once.
local function available_balance(root, ask, balance, current_head)
  if balance >= ask.hold or not current_head or ask.on_conflict ~= 'interrupt' then return balance, false end
  local waiting, running = freed_by_interrupt(root, ask, current_head)
  if balance + waiting >= ask.hold then return balance + waiting, false end
  return balance + waiting + running, true
end

local function load_totals(totals, lane)
  return redis.call('HMGET', totals, 'balance', 'running_' .. lane, 'lane_stride', 'running_most', 'stored_0',
    'stored_1', 'stored_side', 'counted_at', 'held', 'stored_batches')
end

-- Ends or cancels all turns under way of the session. The answer under way is only asked to stop, unless its hold is
-- needed now. Returns the account's totals afterwards; the session's bytes may include text of an ended answer.
local function interrupt(root, ask, head, session, is_hold_needed)
  damage.check_shared_keys(root)
  local waiting = redis.call('ZRANGE', waiting_key(root, ask.account, ask.session), 0, -1)
  for i = #waiting, 1, -1 do
    damage.run_guarded(root, member(ask.account, waiting[i]), cancel_checked, ask.keep, ask.channels)
  end
  local end_head = is_hold_needed and damage.end_checked or cancel_checked
  damage.run_guarded(root, member(ask.account, head), end_head, ask.keep, ask.channels)
  session.bytes = redis.call('HGET', session_key(root, ask.account, ask.session), 'bytes')
  return load_totals(account_totals_key(root, ask.account), ask.lane)
end

-- Returns how many of `ahead` unfinished turns come first (suspended ones do not), how many accounts share the lane,
-- and whether the account is in it.
local function look_ahead(root, ask, ahead)
  return ahead - stages.count_suspended(root, ask.account, ask.lane),
    count_lane_accounts(root, ask.account, ask.lane, ask.stride)
end

-- Returns how many turns of its session an interrupt replaces: all, and those that count as ahead in the lane. Its head
-- does not where it runs, is suspended or is in the other lane.
local function count_replaced(root, ask, head)
  local waiting = count_waiting(root, ask.account, ask.session)
  local score = redis.call('ZSCORE', unfinished_key(root, ask.account, ask.lane), head)
  local is_ahead = score and tonumber(score) < stages.SUSPENDED_OFFSET
    and not redis.call('ZSCORE', leases_key(root), member(ask.account, head))
  return waiting + 1, waiting + (is_ahead and 1 or 0)
end

-- Gives the message its turn. In a session with nothing under way it becomes the head, otherwise it waits.
local function take_turn(root, ask, key, session, measured, now)
  if has_no_session(ask.generation, ask) then return 1, true end
  storage.schedule_recount(root, ask.account, measured.counted_at, storage.RECOUNT_MS, now)
  redis.call('ZADD', sessions_key(root, ask.account), now, ask.session)
  if ask.is_new then
    redis.call('HSET', key, 'name', ask.name, 'created', now, 'active', now, 'turns', '1', 'head', ask.generation,
      'bytes', int(measured.added))
    if ask.system_prompt then redis.call('HSET', key, 'system', ask.system_prompt) end
    if ask.companion then redis.call('HSET', key, 'companion', ask.companion) end
    if measured.side == '1' then redis.call('HSET', key, 'side', measured.side) end
    return 1, true
  end
  local turn, bytes = session.turns + 1, int((tonumber(session.bytes) or 0) + measured.size)
  if session.pending_tokens then redis.call('HSET', key, 'pending', int(session.pending_tokens + (ask.added or 0))) end
  if session.head then
    redis.call('HSET', key, 'turns', int(turn), 'active', now, 'bytes', bytes)
    -- An interrupt may have ended the head.
    return turn, ask.on_conflict == 'interrupt' and redis.call('HSETNX', key, 'head', ask.generation) == 1
  end
  redis.call('HSET', key, 'turns', int(turn), 'active', now, 'bytes', bytes, 'head', ask.generation)
  return turn, true
end

-- Returns what comes before the turn now, from which its progress is told later: running, ahead, lane_accounts,
-- session_turns_before, whether it is behind its session's head, and ms since that head started (-1: it waits, too).
-- Nothing is stored where nothing is ahead.
local function describe_position(running, ahead, lane_accounts, session_turns_before, is_behind_head, first_age_ms)
  if ahead <= 0 and not is_behind_head then return nil end
  return string.format('%d %d %d %d %d %d', running, math.max(0, ahead), lane_accounts, session_turns_before,
    is_behind_head and 1 or 0, first_age_ms)
end

local function pack_message(ask, now)
  return cmsgpack.pack({
    id = ask.message,
    generation = ask.generation,
    content = ask.content,
    created = now,
    model = ask.model ~= AUTO and ask.model or nil,
    metadata = ask.metadata,
    project = ask.project,
    media = ask.media,
  })
end

-- Measures what the message adds to what is stored: its own bytes and, of a new session, those of the session's texts.
-- Returns the measure and, if a quota would be exceeded, which one and how much of it is used; then the account is
-- counted again soon, in case the count is wrong.
local function measure(root, ask, session, known, now)
  local message = pack_message(ask, now)
  local added = #message
  if ask.is_new then added = added + #ask.name + #(ask.system_prompt or '') + #(ask.companion or '') end
  local sessions_max = ask.is_new and ask.sessions_max
  local quota, used = storage.find_exceeded_quota(root, ask.account, known[5], known[6], known[10], sessions_max,
    added, ask.stored_bytes_max)
  if quota == 'stored_bytes' then
    storage.schedule_recount(root, ask.account, known[8], storage.RECOUNT_REFUSED_MS, now)
  end
  local side = session.side
  if ask.is_new then side = known[7] end
  -- Messages that expire with their generation are no stored content.
  if has_no_session(ask.generation, ask) then added = 0 end
  return {message = message, size = #message, added = added, side = side, counted_at = known[8]}, quota, used
end

local function write_idempotency_record(root, ask)
  local key = idempotency_key(root, ask.account, ask.idempotency)
  redis.call('HSET', key, 'fingerprint', ask.fingerprint, 'generation', ask.generation, 'session',
    has_no_session(ask.generation, ask) and '' or ask.session)
  redis.call('PEXPIRE', key, ask.idempotency_ms)
end

-- Returns whether the account may run more at once than at its last accept.
local function is_limit_raised(ask, known) return known[4] and ask.running_max > tonumber(known[4]) end

-- Takes the hold and counts the stored bytes, in one write, and stores the stride and the limit where they have
-- changed. `known` are the account's totals now.
local function take_hold(root, ask, known, measured)
  local totals, sum = account_totals_key(root, ask.account), storage.sum_field(measured.side)
  if ask.hold > 0 then
    local before = (measured.side == '1' and known[6] or measured.side ~= '1' and known[5]) or 0
    redis.call('HSET', totals, 'balance', int(known[1] - ask.hold), 'held', int((known[9] or 0) + ask.hold),
      sum, int(before + measured.added))
  else
    redis.call('HINCRBY', totals, sum, int(measured.added))
  end
  if tonumber(known[3]) ~= ask.stride or tonumber(known[4]) ~= ask.running_max then
    redis.call('HSET', totals, 'lane_stride', ask.stride, 'running_most', ask.running_max)
  end
  if is_limit_raised(ask, known) then damage.enter_lanes(root, ask.account) end
end

-- Returns the session, nil where there is none. `pending_tokens` is set where turns are under way, or where an older
-- process left a count.
local function load_session(root, ask, key)
  local turns, current_head, companion, tokens, pending, system, bytes, side = unpack(redis.call('HMGET', key,
    'turns', 'head', 'companion', 'tokens', 'pending', 'system', 'bytes', 'side'))
  local pending_tokens = current_head and count_pending_tokens(root, ask, current_head, pending) or pending and 0 or nil
  if not turns then return nil end
  return {
    turns = tonumber(turns), head = current_head, companion = companion, tokens = tokens,
    pending_tokens = pending_tokens, system = system, bytes = bytes, side = side,
  }
end

local NEW_SESSION = {turns = 0}

-- Returns the session's key, and the session; one without any turn where it is new or the generation has none.
local function find_session(root, ask)
  local key = session_key(root, ask.account, ask.session)
  if ask.is_new or has_no_session(ask.generation, ask) then return key, NEW_SESSION end
  return key, load_session(root, ask, key)
end

local function accept(root, ask)
  local account = ask.account
  if redis.call('EXISTS', generation_key(root, account, ask.generation)) == 1 then
    return {'replayed', ask.generation, ask.session or ''}
  end
  local replay = find_replay(root, ask)
  if replay then return replay end
  ask.session = ask.session or ask.generation
  local key, session = find_session(root, ask)
  if not session then return {'no_session'} end
  local current_head = session.head
  if current_head and ask.on_conflict == 'reject' then return {'busy', current_head} end
  local now = now_us()
  local rate, is_within_limit = take_rate(root, account, ask.per_minute, now)
  if not is_within_limit then return {'limited', rate} end
  local unfinished, unfinished_in_lane = count_unfinished(root, account, ask.lane)
  -- An interrupt takes the place of all that its session has.
  local session_turns_before = current_head and count_waiting(root, account, ask.session) or 0
  local completed_turns = session.turns - session_turns_before - (current_head and 1 or 0)
  local replaced, replaced_ahead, is_interrupt = 0, 0, current_head and ask.on_conflict == 'interrupt'
  if is_interrupt then session_turns_before, replaced, replaced_ahead = 0, count_replaced(root, ask, current_head) end
  if unfinished - replaced >= ask.unfinished_max then return {'crowded', rate} end
  if session_turns_before >= ask.waiting_max then return {'waiting', rate} end
  if redis.call('ZCARD', deadlines_key(root)) >= ask.total_max then return {'full', rate} end
  local known = load_totals(account_totals_key(root, account), ask.lane)
  local running = tonumber(known[2] or 0)
  local ahead = unfinished_in_lane - running - replaced_ahead
  local lane_accounts, is_in_lane = 1, nil
  if ahead > 0 then ahead, lane_accounts, is_in_lane = look_ahead(root, ask, ahead) end
  if misses_deadline(ask, ahead, lane_accounts, session_turns_before) then return {'late', rate} end
  local at = math.floor(now / 1000)
  local measured, quota, used = measure(root, ask, session, known, at)
  if quota then return {'quota', quota, used, rate} end
  local history = session == NEW_SESSION and 0 or count_history(root, ask, completed_turns, session)
  local least = add_history_price(ask, history)
  if least then return {'unpaid', int(least), rate} end
  local balance, is_hold_needed = available_balance(root, ask, tonumber(known[1] or 0), current_head)
  if balance < ask.hold then return {'poor', int(balance), int(ask.hold), rate} end

  -- Keys that the whole partition shares come first: where one is of another type, nothing is written.
  local number = int(redis.call('HINCRBY', clocks_key(root), 'number', '1'))
  if not is_in_lane then redis.call('ZCARD', lane_key(root, ask.lane)) end
  if is_interrupt then known = interrupt(root, ask, current_head, session, is_hold_needed) end
  if is_hold_needed then session.pending_tokens = 0 end
  if ask.companion or session.companion then ask.wire = math.max(ask.wire, COMPANION_WIRE) end
  local moment = int(at)
  local turn, is_head = take_turn(root, ask, key, session, measured, moment)
  take_hold(root, ask, known, measured)
  local first_age_ms = is_head and -1 or ms_since_start(root, account, current_head, at)
  local before =
    describe_position(running, ahead, lane_accounts, session_turns_before, not is_head, first_age_ms)
  if ask.idempotency then write_idempotency_record(root, ask) end
  enter_queue(root, ask, measured.message, turn, number, moment, int(at + ask.deadline_ms), is_head,
    replaced == 0 and is_in_lane, before)
  -- Some of what the interrupt stopped has left the queue, some has not yet.
  if replaced > 0 then
    ahead = redis.call('ZRANK', unfinished_key(root, account, ask.lane), ask.generation) - running
  end
  return {'accepted', turn, at, math.max(0, ahead), lane_accounts, session_turns_before, running, is_head and 0 or 1,
    first_age_ms, unfinished + 1, rate}
end

register('accept', accept)
