-- suspend: end an attempt that waits for a person, until `resume` is called or the wait ends by itself.
-- ASK      account, id, attempt, seq (of the first event), events (JSON each, not yet appended), until_ms (when the
--          wait ends by itself), keep; if any: text, text_bytes_kept, stage, progress, bill, routed and rounds, as in
--          `append`
-- RETURNS  'suspended', 'cancelled' (a cancel was pending, and it has ended) or 'refused'
-- ATOMIC   because a generation is always in exactly one of: ready, leased, deferred, ended; and because it must not
--          lose what the attempt has produced.
-- It keeps its hold and its turn, so the next turns of its session wait behind it, and counts as unfinished, but not as
-- running. The time that it waits does not count: the deadline is as long after the end of the wait as it was ahead
-- now. It stands in `deferred` until then, where a reap of any version finds it.

local function wait_for_person(root, ask, record, now)
  local key, name = generation_key(root, ask.account, ask.id), member(ask.account, ask.id)
  local seq = int(math.max(tonumber(record.seq or 0) + 1, ask.seq + #ask.events))
  local waits_until = math.max(now, ask.until_ms)
  local deadline = int(waits_until + tonumber(record.deadline) - now)
  record_attempt(root, ask.account, ask.id, record, 'SUSPENDED', now)
  clear_suspicion(root, ask.account, ask.id, record)
  redis.call('HDEL', key, 'worker')
  redis.call('HSET', key, 'stage', STORED_AS.awaiting_approval, 'finer_stage', 'awaiting_approval', 'seq', seq,
    'suspended', int(now) .. ' ' .. int(waits_until), 'deadline', deadline)
  append_event(root, ask.account, ask.id, ask.attempt, seq, STAGE_EVENTS.awaiting_approval)
  redis.call('ZADD', deadlines_key(root), deadline, name)
  redis.call('PEXPIRE', rounds_key(root, ask.account, ask.id), int(rounds.ms_to_keep(tonumber(deadline))))
  if has_no_session(ask.id, record) then
    local chunk = turns_chunk_key(root, ask.account, record.session, record.turn)
    redis.call('PEXPIRE', chunk, int(deadline - now + OWN_TURN_KEPT_MS))
  end
  redis.call('ZADD', unfinished_key(root, ask.account, record.lane), stages.suspended_score(record), ask.id)
  end_lease(root, ask.account, ask.id, record.lane)
  redis.call('ZADD', deferred_key(root), int(waits_until), name)
end

local function suspend(root, ask)
  local record, now = load_generation(root, ask.account, ask.id), now_ms()
  if not record or tonumber(record.attempt) ~= ask.attempt then return 'refused' end
  if not redis.call('ZSCORE', leases_key(root), member(ask.account, ask.id)) then
    return stages.of(record) == 'awaiting_approval' and 'suspended' or 'refused'
  end
  local fault = damage.find_fault(record)
  if fault then
    damage.set_aside(root, ask.account, ask.id, fault)
    return 'refused'
  end
  -- A reap ends it.
  if tonumber(record.deadline) <= now then return 'refused' end
  check_transition({stage = ask.stage or stages.of(record)}, 'awaiting_approval')
  if ask.seq > tonumber(record.seq or 0) then
    append_produced(root, ask, generation_key(root, ask.account, ask.id), record.stage, record.finer_stage)
  end
  if record.cancel then
    record = load_generation(root, ask.account, ask.id)
    end_without_worker(root, ask.account, ask.id, record, 'cancelled', CANCELLED, ask.keep)
    return 'cancelled'
  end
  wait_for_person(root, ask, record, now)
  -- The person has decided meanwhile.
  if record.resumed == record.attempt then
    stages.end_wait(root, ask.account, ask.id, load_generation(root, ask.account, ask.id), now)
  end
  return 'suspended'
end

register('suspend', suspend)
