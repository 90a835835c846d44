-- What the functions share: events, leases, and how an attempt is handed on.

-- One event: kept in the stream and said on the channel, the same bytes in both.
local function append_event(root, account, id, epoch, seq, event)
  local name = events_key(root, account, id)
  local at = int(epoch) .. '-' .. int(seq)
  redis.call('XADD', name, at, 'e', event)
  redis.call('PUBLISH', name, at .. ' ' .. event)
  return at
end

-- For parked turns of an account that could run no more there is a slot again. Who has a provider may have heard that
-- a circuit there is closed again, and listens to the provider's bell only. A line of another type holds nobody.
local function wake_parked_queues(root, account, lines)
  for _, name in ipairs(lines) do
    local lane, resource = split(name)
    if type(redis.pcall('ZSCORE', parked_key(root, lane, resource), account)) == 'string' then
      push_wakeup(wakeup_for_key(root, lane, string.match(resource, '^[^|]+')))
    end
  end
end

-- A lease that is gone gives its slot back to the account's count, which lets the account in again where it
-- had to stay outside; the second call finds nothing to give. Returns whether there was one.
local function end_lease(root, account, id, lane)
  if redis.call('ZREM', leases_key(root), member(account, id)) == 0 then return false end
  -- Where it is of another type, there is none to ring for.
  local lines = redis.pcall('SMEMBERS', parked_queues_key(root))
  if #lines > 0 and is_at_running_max(root, account, lane) then wake_parked_queues(root, account, lines) end
  redis.call('HINCRBY', account_totals_key(root, account), 'running_' .. lane, '-1')
  if redis.call('EXISTS', ready_key(root, account, 'interactive'), ready_key(root, account, 'batch')) > 0 then
    damage.enter_lanes(root, account)
  end
  return true
end

-- How the last attempts ended, a line each: number, begun, ended, worker, why. Returns all of them.
local ATTEMPTS_KEPT = 16

local function record_attempt(root, account, id, record, why, now)
  local lines = {}
  for line in string.gmatch(record.history or '', '[^\n]+') do table.insert(lines, line) end
  local words = {record.attempt, record.started or '0', int(now), record.worker or '-', why}
  table.insert(lines, table.concat(words, ' '))
  local history = table.concat(lines, '\n', math.max(1, #lines - ATTEMPTS_KEPT + 1))
  redis.call('HSET', generation_key(root, account, id), 'history', history)
  return history
end

-- An attempt is over, and the next one waits. Whoever calls this takes the lease away, so the attempt's next
-- number is nobody else's: followers are told under it.
local function retry_later(root, account, id, record, why)
  check_transition(record, 'retrying')
  record_attempt(root, account, id, record, why, now_ms())
  local key, seq = generation_key(root, account, id), tonumber(record.seq or 0) + 1
  redis.call('HDEL', key, 'worker')
  redis.call('HSET', key, 'stage', 'retrying', 'seq', int(seq))
  append_event(root, account, id, record.attempt, seq, RETRYING)
end

-- Where what is tried again waits, and what follows when a suspect has completed: suspects.lua.
local enqueue, extend_storm_if_blamed

-- An attempt ends as if it had never begun: to the front of the line again.
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
