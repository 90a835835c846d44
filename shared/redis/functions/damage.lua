-- Shared: damaged records are found and set aside.
--
-- A record is damaged when something other than Pollux has deleted or overwritten a key or a field of a generation.
-- That must not stop the partition: the generation is set aside, which takes it out of every queue and ends it as
-- failed, and the rest goes on. An error alone proves no damage (a command may be forbidden, or the server full): only
-- what `diagnose` finds in the generation's own keys does. Any other error is raised again, and nothing is set aside.

damage.DAMAGED_MAX, damage.DAMAGED_KEPT_MS = 1000, 604800000
-- Damage that no worker has logged yet is kept in one text, up to so many bytes.
damage.UNREPORTED_BYTES_MAX = 16384
damage.SESSIONS_SEARCHED, damage.READY_REBUILT_MAX = 256, 1000
damage.TEXT_FIELDS = {'session', 'model'}
damage.NUMBERS = {'turn', 'wire', 'number', 'accepted', 'deadline', 'hold', 'attempt'}
damage.NUMBERS_IF_ANY = {
  'seq', 'progress', 'retries', 'calls', 'crashes', 'company', 'falls', 'added', 'waits', 'drains', 'started',
}

-- Returns the keys that the whole partition shares. The first belongs to nobody and does not exist, so ZINTERCARD
-- checks the types of the others and reads none of them.
function damage.shared_keys_of(root)
  return {waiting_key(root, '', ''), leases_key(root), deadlines_key(root), deferred_key(root), suspects_key(root),
    lane_key(root, 'interactive'), lane_key(root, 'batch'), parked_queues_key(root), claiming_workers_key(root),
    dead_letters_key(root), recount_key(root), damaged_key(root)}
end

damage.shared_keys, damage.SHARED_KEYS_CACHED_MAX, damage.shared_keys_cached = {}, 128, 0

-- Raises an error, before anything is written, where a key that the whole partition shares holds another type: nothing
-- is rolled back, so a write that failed half-way would lose work. ZINTERCARD checks all of them in one command. (It
-- takes a set for a sorted set.) Where the server's user may not send it, nothing is checked.
function damage.check_shared_keys(root)
  local shared_keys = damage.shared_keys[root]
  if not shared_keys then
    if damage.shared_keys_cached >= damage.SHARED_KEYS_CACHED_MAX then
      damage.shared_keys, damage.shared_keys_cached = {}, 0
    end
    shared_keys = damage.shared_keys_of(root)
    damage.shared_keys[root], damage.shared_keys_cached = shared_keys, damage.shared_keys_cached + 1
  end
  local reply = redis.pcall('ZINTERCARD', 12, unpack(shared_keys))
  if type(reply) ~= 'number' and string.find(reply.err or '', 'WRONGTYPE', 1, true) then error(reply, 0) end
  redis.call('HEXISTS', clocks_key(root), 'number')
end

-- Called before an end that is no answer: such an end takes the generation out of these keys after its hold is
-- released, and may leave a dead letter. A completed answer touches only its lease, which was checked before.
function damage.check_end(root)
  for _, key in ipairs({leases_key(root), deferred_key(root), suspects_key(root), dead_letters_key(root)}) do
    redis.call('ZCARD', key)
  end
end

function damage.is_integer(text)
  local number = tonumber(text)
  return number and number % 1 == 0
end

-- Returns the sum of the fractions of all numbers. Raises an error where one is missing or not a number.
local function fractions(record)
  return record.turn % 1 + record.wire % 1 + record.number % 1 + record.accepted % 1 + record.deadline % 1
    + record.hold % 1 + record.attempt % 1 + (record.seq or 0) % 1 + (record.progress or 0) % 1
    + (record.retries or 0) % 1 + (record.calls or 0) % 1 + (record.crashes or 0) % 1 + (record.company or 0) % 1
    + (record.falls or 0) % 1 + (record.added or 0) % 1 + (record.waits or 0) % 1 + (record.drains or 0) % 1
    + (record.started or 0) % 1
end

-- Returns whether a record is sound, at the least cost: nearly all are, and every claim asks.
local function has_sound_fields(record)
  local has_numbers, sum = pcall(fractions, record)
  return has_numbers and sum == 0 and (record.session or '') ~= '' and (record.model or '') ~= ''
end

-- Returns the first damaged field of a generation that has not ended; nil where it is sound.
function damage.find_fault(record)
  if not record then return 'record' end
  local next_stages = TRANSITIONS[record.stage]
  if not next_stages then return 'stage' end
  if not next(next_stages) then return nil end
  if record.lane ~= 'interactive' and record.lane ~= 'batch' then return 'lane' end
  if record.kept and not rounds.parse(record.kept) then return 'kept' end
  if record.suspended and not string.match(record.suspended, '^%d+ %d+$') then return 'suspended' end
  if has_sound_fields(record) then return nil end
  for _, field in ipairs(damage.TEXT_FIELDS) do
    if not record[field] or record[field] == '' then return field end
  end
  for _, field in ipairs(damage.NUMBERS) do
    if not damage.is_integer(record[field]) then return field end
  end
  for _, field in ipairs(damage.NUMBERS_IF_ANY) do
    if record[field] and not damage.is_integer(record[field]) then return field end
  end
end

-- Raises an error where a record is damaged; called before anything is written for it.
function damage.check(record)
  local fault = damage.find_fault(record)
  if fault then error('DAMAGED ' .. fault, 0) end
end

-- Ends a generation that a worker may be answering: the worker is notified, and its later writes are refused.
function damage.end_checked(root, account, id, keep, channels)
  local record = load_generation(root, account, id)
  damage.check(record)
  if record.worker then redis.call('PUBLISH', channels .. record.worker, member(account, id)) end
  end_without_worker(root, account, id, record, 'cancelled', CANCELLED, keep)
end

function damage.error_text(problem) return type(problem) == 'table' and problem.err or tostring(problem) end

function damage.is_wrong_type(...)
  local reply = redis.pcall(...)
  return type(reply) == 'table' and reply.err and string.find(reply.err, 'WRONGTYPE', 1, true) and true or false
end

-- Returns the family of the first key of a generation that holds another type; nil where none does.
function damage.find_wrong_key(root, account, id, record)
  local probes = {
    {'submission', 'GET', submission_key(root, account, id)},
    {'text', 'GET', text_key(root, account, id)},
    {'events', 'XRANGE', events_key(root, account, id), '-', '-'},
    {'rounds', 'LLEN', rounds_key(root, account, id)},
    {'books', 'HGET', account_totals_key(root, account), 'balance'},
    {'ledger', 'XRANGE', ledger_key(root, account), '-', '-'},
    {'usage', 'HGET', usage_key(root, account, int(math.floor(now_ms() / MS_PER_DAY))), '-'},
    {'sessions', 'ZCARD', sessions_key(root, account)},
    {'letter', 'HGET', dead_letter_key(root, account, id), 'session'},
  }
  for _, lane in ipairs(LANES) do
    table.insert(probes, {'ready', 'ZCARD', ready_key(root, account, lane)})
    table.insert(probes, {'unfinished', 'ZCARD', unfinished_key(root, account, lane)})
  end
  if record and record.session then
    table.insert(probes, {'session', 'HGET', session_key(root, account, record.session), 'head'})
    table.insert(probes, {'waiting', 'ZCARD', waiting_key(root, account, record.session)})
    if damage.is_integer(record.turn) then
      table.insert(probes, {'turns', 'HGET', turns_chunk_key(root, account, record.session, record.turn), '-'})
    end
  end
  for _, probe in ipairs(probes) do
    if damage.is_wrong_type(unpack(probe, 2)) then return probe[1] end
  end
end

function damage.is_lane_wrong(root, lane)
  return lane and damage.is_wrong_type('ZCARD', lane_key(root, lane))
end

-- Puts an account into each lane that it has ready turns of, if it may run more. `count` is in how many lanes it has
-- some, if that is known. A lane of another type does not stop the caller: `restore` puts the account in once the lane
-- is repaired.
function damage.enter_lanes(root, account, count)
  local left = count or #LANES
  for i, lane in ipairs(LANES) do
    local is_known = count and left == #LANES - i + 1
    if left > 0 and (is_known or redis.call('EXISTS', ready_key(root, account, lane)) == 1) then
      left = left - 1
      local is_done, problem = pcall(join_lane, root, account, lane)
      if not is_done and not damage.is_lane_wrong(root, lane) then error(problem, 0) end
    end
  end
end

damage.TOTAL_FIELDS = {'balance', 'held', 'settled', 'overrun', 'running_interactive', 'running_batch',
  'left_interactive', 'left_batch', 'lane_stride', 'running_most', 'stored_0', 'stored_1', 'stored_batches',
  'batch_uploads'}

function damage.find_wrong_total(root, account)
  for i, sum in ipairs(redis.call('HMGET', account_totals_key(root, account), unpack(damage.TOTAL_FIELDS))) do
    if sum and not tonumber(sum) then return 'books.' .. damage.TOTAL_FIELDS[i] end
  end
end

-- Returns what is damaged of a generation, or nil. `problem` is the error that led here, if there was one.
function damage.diagnose(root, account, id, problem)
  local record = load_generation(root, account, id)
  local fault = damage.find_fault(record) or damage.find_wrong_key(root, account, id, record)
    or damage.find_wrong_total(root, account)
  if fault then return fault end
  -- The table of transitions refused the step, so the stored stage is not the generation's real one.
  if problem and string.find(damage.error_text(problem), 'ILLEGAL', 1, true) then return 'stage' end
  if is_final(record) then return nil end
  if redis.call('EXISTS', submission_key(root, account, id)) == 0 then return 'submission' end
  if record.kept and not pcall(rounds.load_start, root, account, id, record) then return 'rounds' end
  local turns = turns_chunk_key(root, account, record.session, record.turn)
  if redis.call('HSTRLEN', turns, record.turn .. ':u') == 0 then return 'message' end
end

-- Keeps what was set aside for a week in `damaged`, and for the next reap in `clocks`, whose worker logs it.
function damage.record_damage(root, name, why, hold)
  local key = damaged_key(root)
  if redis.call('ZADD', key, int(now_ms()), name) == 0 then return end
  damage.is_damage_new = true
  redis.call('ZADD', recount_key(root), 'NX', int(now_ms()), string.match(name, '^[^:]*'))
  redis.call('ZREMRANGEBYRANK', key, 0, -(damage.DAMAGED_MAX + 1))
  redis.call('PEXPIRE', key, damage.DAMAGED_KEPT_MS)
  local unreported = redis.call('HGET', clocks_key(root), 'damaged') or ''
  if #unreported < damage.UNREPORTED_BYTES_MAX then
    redis.call('HSET', clocks_key(root), 'damaged', unreported .. name .. ' ' .. why .. ' ' .. hold .. '\n')
  end
end

-- Takes a generation out of all queues. Each step stands alone, since its key may be what is damaged.
function damage.leave_queue(root, account, id, record)
  local name = member(account, id)
  local was_leased = redis.call('ZREM', leases_key(root), name) == 1
  for _, key in ipairs({deadlines_key(root), deferred_key(root), suspects_key(root)}) do
    redis.call('ZREM', key, name)
  end
  for _, lane in ipairs(LANES) do
    local is_in_lane = redis.pcall('ZREM', unfinished_key(root, account, lane), id) == 1 or record.lane == lane
    if was_leased and is_in_lane then
      was_leased = false
      redis.pcall('HINCRBY', account_totals_key(root, account), 'running_' .. lane, -1)
    end
    redis.pcall('ZREM', ready_key(root, account, lane), id)
    if redis.pcall('EXISTS', ready_key(root, account, lane)) == 0 then
      redis.call('ZREM', lane_key(root, lane), account)
    else
      pcall(join_lane, root, account, lane)
    end
  end
  for _, parked_queue in ipairs(redis.call('SMEMBERS', parked_queues_key(root))) do
    local lane, resource = split(parked_queue)
    if redis.pcall('ZREM', parked_turns_key(root, account, lane, resource), id) == 1 then
      leave_parked_queue(root, account, lane, resource)
    end
  end
end

function damage.is_in_session(root, account, id, session)
  if redis.pcall('HGET', session_key(root, account, session), 'head') == id then return true end
  return type(redis.pcall('ZSCORE', waiting_key(root, account, session), id)) == 'string'
end

-- Returns the session of a generation, its own id where it has none. If the record does not name it, the recently
-- active sessions are searched.
function damage.find_session(root, account, id, record)
  if has_no_session(id, record) then return id end
  if record.session and damage.is_in_session(root, account, id, record.session) then return record.session end
  local recent_sessions = redis.pcall('ZRANGE', sessions_key(root, account), 0, damage.SESSIONS_SEARCHED - 1, 'REV')
  for _, session in ipairs(recent_sessions.err and {} or recent_sessions) do
    if damage.is_in_session(root, account, id, session) then return session end
  end
end

-- Writes a failed answer in the place of a damaged generation's, if there is any.
function damage.write_answer(root, account, id, session, turn, now)
  local chunk, field = turns_chunk_key(root, account, session, turn), int(turn) .. ':a'
  local record = cmsgpack.pack({status = 'failed', content = '', created = now, failure = DAMAGED})
  local added_bytes = #record - redis.call('HSTRLEN', chunk, field)
  redis.call('HSET', chunk, field, record)
  if session == id then
    redis.call('PEXPIRE', chunk, damage.DAMAGED_KEPT_MS)
  else
    storage.add_to_session(root, account, session, added_bytes)
  end
end

-- Ends a damaged generation for its followers and for readers of its session. Unreadable fields get a plain value.
function damage.end_damaged(root, account, id, record, session)
  local key, now = generation_key(root, account, id), now_ms()
  local turn, attempt = tonumber(record.turn) or 0, tonumber(record.attempt) or 0
  local events, event = events_key(root, account, id), cjson.encode({type = 'failed', failure = DAMAGED})
  -- If the attempt is unreadable, it is that of the last event.
  local last_event = redis.pcall('XREVRANGE', events, '+', '-', 'COUNT', 1)[1]
  if last_event then attempt = math.max(attempt, tonumber(string.match(last_event[1], '^%d+'))) end
  local reply = redis.pcall('XADD', events, int(attempt + 1) .. '-1', 'e', event)
  if type(reply) == 'string' then redis.call('PUBLISH', events, reply .. ' ' .. event) end
  redis.call('PEXPIRE', events, damage.DAMAGED_KEPT_MS)
  redis.call('DEL', submission_key(root, account, id), text_key(root, account, id), rounds_key(root, account, id))
  if session == id then turn = 1 end
  local has_place = session == id
    or session and redis.pcall('HEXISTS', session_key(root, account, session), 'head') == 1
  if has_place and turn > 0 then pcall(damage.write_answer, root, account, id, session, turn, now) end
  if next(record) then
    redis.call('HDEL', key, 'hold', 'number', 'deadline', 'worker', 'cancel', 'seq', 'progress', 'started', 'kept',
      'finer_stage', 'suspended', unpack(damage.NUMBERS_IF_ANY))
    redis.call('HSET', key, 'stage', 'failed', 'finished', int(now), 'captured', 0, 'turn', int(turn), 'attempt',
      int(attempt), 'session', session or '-', 'lane', record.lane == 'batch' and 'batch' or 'interactive',
      'model', record.model or AUTO, 'accepted', damage.is_integer(record.accepted) and record.accepted or int(now),
      'last', int(attempt + 1) .. '-1')
  end
  redis.call('PEXPIRE', key, damage.DAMAGED_KEPT_MS)
end

-- Returns the hold to the balance if it can be read and was not settled already. Returns what became of it.
function damage.release_hold(root, account, id, record)
  if damage.last_settled == id then return 'settled' end
  local hold, totals = tonumber(record.hold), account_totals_key(root, account)
  if not damage.is_integer(record.hold) or damage.is_wrong_type('HGET', totals, 'held') then return 'unreadable' end
  if hold > 0 then
    local held = redis.pcall('HINCRBY', totals, 'held', int(-hold))
    if type(held) ~= 'number' then return 'unreadable' end
    redis.pcall('HINCRBY', totals, 'balance', int(hold))
  end
  return 'released'
end

function damage.set_aside(root, account, id, why)
  local record = load_generation(root, account, id) or {}
  local next_stages = TRANSITIONS[record.stage]
  damage.leave_queue(root, account, id, record)
  -- A generation that has ended keeps its end; only its places in queues were wrong.
  if next_stages and not next(next_stages) then return end
  local session = damage.find_session(root, account, id, record)
  local hold = damage.release_hold(root, account, id, record)
  damage.end_damaged(root, account, id, record, session)
  if record.batch then batches.note_damaged(root, account, id, record) end
  damage.record_damage(root, member(account, id), why, hold)
  account_log.append_end(root, account, id, record, 'failed', now_ms())
  if not session then return end
  if damage.is_wrong_type('ZCARD', waiting_key(root, account, session)) then
    redis.call('DEL', waiting_key(root, account, session))
  end
  local head = redis.pcall('HGET', session_key(root, account, session), 'head')
  if type(head) == 'string' then pcall(advance_session, root, account, id, session, head) end
end

-- Returns whether nothing of its session comes before a generation; nothing comes before one without a session.
function damage.is_head(root, account, id, record)
  return has_no_session(id, record) or redis.pcall('HGET', session_key(root, account, record.session), 'head') == id
end

-- An account is in a lane, but its ready turns are missing or of another type: they are rebuilt from its unfinished
-- generations. Where none is ready, the account leaves the lane.
function damage.rebuild_ready(root, account, lane)
  local key, has_ready = ready_key(root, account, lane), false
  redis.call('DEL', key)
  local ids = redis.pcall('ZRANGE', unfinished_key(root, account, lane), 0, damage.READY_REBUILT_MAX - 1)
  for _, id in ipairs(ids.err and {} or ids) do
    local record, name = load_generation(root, account, id), member(account, id)
    local is_ready = record and not damage.find_fault(record) and TRANSITIONS[record.stage].routing
      and not redis.call('ZSCORE', leases_key(root), name) and not redis.call('ZSCORE', deferred_key(root), name)
    if is_ready and damage.is_head(root, account, id, record) then
      redis.call('ZADD', key, record.number, id)
      has_ready = true
    end
  end
  if not has_ready then redis.call('ZREM', lane_key(root, lane), account) end
end

-- Drops a queue of parked turns that holds another type: its turns are in `deferred`, too.
function damage.drop_parked_turns(root, account, parked_queue)
  local key = parked_turns_key(root, account, parked_queue.lane, parked_queue.resource)
  if not damage.is_wrong_type('ZCARD', key) then return end
  redis.call('DEL', key)
  leave_parked_queue(root, account, parked_queue.lane, parked_queue.resource)
end

-- Called after an error: sets the generation aside if it is damaged, otherwise raises the error again.
function damage.set_aside_or_raise(root, account, id, problem)
  local why = damage.diagnose(root, account, id, problem)
  if not why then error(problem, 0) end
  damage.set_aside(root, account, id, why)
end

-- Notes that a worker claims. A key of another type is replaced: every claim adds its worker again.
function damage.note_claiming_worker(root, worker)
  if type(redis.pcall('ZADD', claiming_workers_key(root), 0, worker)) == 'number' then return end
  redis.call('DEL', claiming_workers_key(root))
  redis.call('ZADD', claiming_workers_key(root), 0, worker)
end

-- Called after an error of a claim: the generation may have left its queue without getting a lease, where a key that
-- the partition shares holds another type. Then it is queued again.
function damage.requeue_or_set_aside(root, account, id, problem)
  local record = load_generation(root, account, id)
  if not damage.find_fault(record) and TRANSITIONS[record.stage].routing then
    local lease = redis.pcall('ZSCORE', leases_key(root), member(account, id))
    if type(lease) ~= 'string' then pcall(enqueue, root, account, id, record) end
  end
  damage.set_aside_or_raise(root, account, id, problem)
end

-- The next turn of a session could not be made ready, and has left the session's queue already: sets it aside.
function damage.drop_next_turn(root, account, id, problem)
  local why = damage.diagnose(root, account, id, problem)
  if not why then error(problem, 0) end
  local session = damage.find_session(root, account, id, load_generation(root, account, id) or {})
  if session then redis.call('HDEL', session_key(root, account, session), 'head') end
  damage.set_aside(root, account, id, why)
end

-- Calls `body` for a generation named `account:id` and returns its result. A damaged generation is set aside, and the
-- result is nil.
function damage.run_guarded(root, name, body, ...)
  local account, id = string.match(name, '^([^:]+):(.+)$')
  if not account then
    for _, key in ipairs({leases_key(root), deadlines_key(root), deferred_key(root), suspects_key(root)}) do
      redis.call('ZREM', key, name)
    end
    damage.record_damage(root, name, 'name', 'unreadable')
    return nil
  end
  local is_done, result = pcall(body, root, account, id, ...)
  if is_done then return result end
  damage.set_aside_or_raise(root, account, id, result)
  return nil
end
