-- Shared: events, leases, and how an attempt is handed on.

-- Appends one event to the generation's stream and publishes the same bytes on its channel.
local function append_event(root, account, id, epoch, seq, event)
  local name = events_key(root, account, id)
  local at = int(epoch) .. '-' .. int(seq)
  redis.call('XADD', name, at, 'e', event)
  redis.call('PUBLISH', name, at .. ' ' .. event)
  return at
end

-- Wakes a worker for each queue in which the account has parked turns, since one of its slots is free. A worker that
-- has the provider may know that the circuit has closed again, and waits only on the provider's wakeup, which is pushed
-- for `provider|model` too. A key of another type holds no turns.
local function wake_parked_queues(root, account, parked_queues)
  for _, name in ipairs(parked_queues) do
    local lane, resource = split(name)
    if type(redis.pcall('ZSCORE', parked_key(root, lane, resource), account)) == 'string' then
      push_wakeup(wakeup_for_key(root, lane, string.match(resource, '^[^|]+')))
    end
  end
end

-- Ends the lease: the account runs one less, which lets it back into a lane that it had to stay out of. A second call
-- finds no lease and changes nothing. Returns whether there was one.
local function end_lease(root, account, id, lane)
  if redis.call('ZREM', leases_key(root), member(account, id)) == 0 then return false end
  -- Mostly nothing waits for the slot, and one EXISTS tells so.
  local waiting_count = redis.call('EXISTS', parked_queues_key(root), ready_key(root, account, 'interactive'),
    ready_key(root, account, 'batch'))
  if waiting_count > 0 then
    -- A key of another type counts as no parked queues.
    local parked_queues = redis.pcall('SMEMBERS', parked_queues_key(root))
    if #parked_queues > 0 and is_at_running_max(root, account, lane) then
      wake_parked_queues(root, account, parked_queues)
    end
    if #parked_queues > 0 or parked_queues.err then waiting_count = waiting_count - 1 end
  end
  redis.call('HINCRBY', account_totals_key(root, account), 'running_' .. lane, '-1')
  if waiting_count > 0 then damage.enter_lanes(root, account, waiting_count) end
  return true
end

-- `history` holds how the last attempts ended, one line each: number, started ms, ended ms, worker, why.
local ATTEMPTS_KEPT = 16

local function record_attempt(root, account, id, record, why, now)
  local lines = {}
  for line in string.gmatch(record.history or '', '[^\n]+') do table.insert(lines, line) end
  local attempt = {record.attempt, record.started or '0', int(now), record.worker or '-', why}
  table.insert(lines, table.concat(attempt, ' '))
  local history = table.concat(lines, '\n', math.max(1, #lines - ATTEMPTS_KEPT + 1))
  redis.call('HSET', generation_key(root, account, id), 'history', history)
  return history
end

-- Ends an attempt; the next one starts later. The caller of this function also ends the lease, so nobody else writes
-- events under the attempt's next number.
local function retry_later(root, account, id, record, why)
  check_transition(record, 'retrying')
  record_attempt(root, account, id, record, why, now_ms())
  local key, seq = generation_key(root, account, id), tonumber(record.seq or 0) + 1
  redis.call('HDEL', key, 'worker')
  redis.call('HSET', key, 'stage', 'retrying', 'seq', int(seq))
  append_event(root, account, id, record.attempt, seq, STAGE_EVENTS.retrying)
end

-- Defined in suspects.lua.
local enqueue, extend_storm_if_blamed

-- Undoes a claim: the generation is `queued` again and goes to the front of its account's ready turns, since it keeps
-- its number.
local function requeue(root, account, id, record, why)
  check_transition(record, 'queued')
  record_attempt(root, account, id, record, why, now_ms())
  local key = generation_key(root, account, id)
  redis.call('HDEL', key, 'worker')
  redis.call('HSET', key, 'stage', 'queued')
  redis.call('HINCRBY', key, 'drains', 1)
  enqueue(root, account, id, record)
  end_lease(root, account, id, record.lane)
end
