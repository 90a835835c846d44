-- reap: do what time has made due: expired leases, passed deadlines, deferred retries.
-- ASK      limit (of each kind), crashes_max, lease_ms, gap_ms, absent_ms, channels, keep; if any: beat_ms, closed
--          (resources that this worker knows to be unavailable: turns parked for these alone stay parked), recheck_ms
-- RETURNS  {{{account, id, what}...}, {dead worker...}, how many workers are absent but not yet taken for dead, {queue
--          of parked turns, lane:resource...}, {lane in which turns are ready...}, {{account:id, why, what became of
--          its hold}... (set aside as damaged since the last reap)}}; what is 'crashed', 'buried', 'expired' or
--          'cancelled'
-- ATOMIC   because any worker may reap, and a generation must be handed on once.
-- Gaps: a lease that expired while nobody could renew it says nothing about its worker. So when nobody has reaped for
-- gap_ms, or the server has restarted, every lease first gets its whole time again, and for as long no worker is taken
-- for absent, since listeners reconnect later than claims do. Example: with leases of 2 s, a server that was away for 5
-- s ends no lease until 2 s after the first reap. Absent workers: each worker subscribes to a channel of its own. When
-- its process ends, the subscription is gone at once, long before its leases expire. A worker is dead once nobody has
-- subscribed for absent_ms and the next renewal of its leases is overdue as well, since a subscription may be cut while
-- its worker lives. Where the server cannot answer (an ACL that forbids PUBSUB, or a cluster, whose nodes know only
-- their own subscribers), leases expire by time.

local NOTED_EVERY_MS = 250

local function names_due(key, now, limit)
  return redis.call('ZRANGE', key, '-inf', now, 'BYSCORE', 'LIMIT', 0, limit)
end

-- The record is checked before the first write.
local function expire_lease(root, account, id, record, held, is_stormy, ask)
  damage.check(record)
  end_lease(root, account, id, record.lane)
  if record.cancel then
    end_without_worker(root, account, id, record, 'cancelled', CANCELLED, ask.keep)
    return {account, id, 'cancelled'}
  end
  if record_crash(root, account, id, record, held, is_stormy) >= ask.crashes_max then
    end_without_worker(root, account, id, record, 'failed', CRASHED, ask.keep)
    return {account, id, 'buried'}
  end
  retry_later(root, account, id, record, CRASHED.code)
  enqueue(root, account, id, record)
  return {account, id, 'crashed'}
end

-- How many workers are remembered whose leases expired, and how many leases that expire next are read.
local LAPSED_KEPT, OTHERS_TRIED = 32, 64

local function load_worker(root, account, id)
  return redis.call('HGET', generation_key(root, account, id), 'worker')
end

-- Returns the workers whose leases expired before, with the time in ms; and the same as lines of text, oldest first.
local function load_lapsed(root)
  local lapsed, lapse_lines = {}, {}
  for worker, at in string.gmatch(redis.call('HGET', clocks_key(root), 'lapsed') or '', '(%S+) (%d+)\n') do
    lapsed[worker] = tonumber(at)
    table.insert(lapse_lines, worker .. ' ' .. at .. '\n')
  end
  return lapsed, lapse_lines
end

-- The leases of a dead worker may expire in several reaps, and a lease that expires by itself was not alone in its
-- worker. Adds one to a worker's count in `held` where another of its leases expired since it started these (at
-- `begun`), or is still to expire. `count` leases expire now. Example: a worker dies with two generations, whose leases
-- expire 100 ms apart. Each reap sees one, but the worker's other lease makes it two, so neither is blamed as the only
-- one.
local function add_others(root, held, started_at, expiring_count, now)
  local lapsed, lapse_lines = load_lapsed(root)
  local alone = {}
  for worker, held_count in pairs(held) do
    if lapsed[worker] and started_at[worker] < lapsed[worker] then
      held[worker] = held_count + 1
    elseif worker ~= '' then
      table.insert(lapse_lines, worker .. ' ' .. now .. '\n')
      if held_count == 1 then alone[worker] = true end
    end
  end
  local text = table.concat(lapse_lines, '', math.max(1, #lapse_lines - LAPSED_KEPT + 1))
  redis.call('HSET', clocks_key(root), 'lapsed', text)
  if not next(alone) then return end
  for _, name in ipairs(redis.call('ZRANGE', leases_key(root), expiring_count, expiring_count + OTHERS_TRIED - 1)) do
    local worker = damage.run_guarded(root, name, load_worker)
    if worker and alone[worker] then held[worker] = 2 end
  end
end

-- Leases of one worker that expire together count together.
local function expire_leases(root, now, ask, done)
  local names = names_due(leases_key(root), now, ask.limit)
  if #names == 0 then return end
  local records, workers, held, started_at, is_stormy = {}, {}, {}, {}, is_storm(root, tonumber(now))
  for i, name in ipairs(names) do
    local record = damage.run_guarded(root, name, load_generation)
    local worker = record and record.worker or ''
    records[i], workers[i], held[worker] = record, worker, (held[worker] or 0) + 1
    started_at[worker] = math.max(started_at[worker] or 0, tonumber(record and record.started) or 0)
  end
  add_others(root, held, started_at, #names, now)
  for i, name in ipairs(names) do
    table.insert(done, damage.run_guarded(root, name, expire_lease, records[i], held[workers[i]], is_stormy, ask))
  end
end

-- Returns whether there was a gap in the reaping or a restart, by how many ms the clock was set back, and the
-- unreported damage. A last reap in the future means that the clock was set back: the ends of leases stand too far
-- ahead, so leases get their time again. The time of a reap is stored every NOTED_EVERY_MS at most.
local function detect_gap(root, info, now, gap_ms)
  local key = clocks_key(root)
  local server = string.match(info, 'run_id:(%w+)')
  local known = redis.call('HMGET', key, 'reaped', 'server', 'damaged')
  local since = now - tonumber(known[1] or 0)
  if math.abs(since) >= NOTED_EVERY_MS or known[2] ~= server then
    redis.call('HSET', key, 'reaped', int(now), 'server', server)
  end
  return known[1] and (math.abs(since) > gap_ms or known[2] ~= server), known[1] and -since or 0, known[3]
end

-- After the clock was set back, deferred turns, batches and chunks to pack would wait for as much longer: their times
-- are moved back, too. Of the batches, those that are due later than that are looked at in time anyway.
local function shift_times(root, set_back_ms, now)
  local latest = {[deferred_key(root)] = '+inf', [batch_chunks_to_pack_key(root)] = '+inf',
    [batch_work_key(root)] = int(now + set_back_ms + 2 * batches.LOOK_MS)}
  for key, most in pairs(latest) do
    for _, name in ipairs(redis.pcall('ZRANGE', key, int(now), most, 'BYSCORE')) do
      redis.call('ZINCRBY', key, int(-set_back_ms), name)
    end
  end
end

-- Gives every lease its whole time again. Listeners reconnect before that has passed; until then no worker is taken for
-- absent (`deaf` says so to this function, the workers' scores to older processes).
local function renew_all_leases(root, now, lease_ms)
  local ends = int(now + lease_ms)
  redis.call('HSET', clocks_key(root), 'deaf', ends)
  for _, name in ipairs(redis.call('ZRANGE', leases_key(root), 0, -1)) do
    redis.call('ZADD', leases_key(root), ends, name)
  end
  for _, worker in ipairs(redis.call('ZRANGE', claiming_workers_key(root), 0, -1)) do
    redis.call('ZADD', claiming_workers_key(root), ends, worker)
  end
end

-- Lua cannot unpack more than some thousands of values in one call.
local ASKED_AT_ONCE = 1000

-- Returns how many subscribe to the channel of each worker; nil where the server may not be asked. The names of the
-- workers alternate with their scores.
local function listeners_of(claiming_workers, channels)
  local counts = {}
  for first = 1, #claiming_workers, 2 * ASKED_AT_ONCE do
    local names = {}
    for i = first, math.min(first + 2 * ASKED_AT_ONCE, #claiming_workers) - 1, 2 do
      table.insert(names, channels .. claiming_workers[i])
    end
    local found = redis.pcall('PUBSUB', 'NUMSUB', unpack(names))
    if found.err then return nil end
    for i = 2, #found, 2 do table.insert(counts, found[i]) end
  end
  return counts
end

-- Returns the workers that have been absent for absent_ms, and how many have been for less. A worker's score is 0 while
-- it has a subscription, else the time since when it has none.
local function find_absent(root, ask, now)
  local key, long_absent, absent_count = claiming_workers_key(root), {}, 0
  local claiming_workers = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  local listeners = listeners_of(claiming_workers, ask.channels)
  if not listeners then
    -- No worker can be found absent, so none needs to be known; otherwise every worker that ever claimed would stay
    -- here.
    redis.call('DEL', key)
    return long_absent, absent_count
  end
  for i = 1, #claiming_workers, 2 do
    local worker, since = claiming_workers[i], tonumber(claiming_workers[i + 1])
    if listeners[(i + 1) / 2] > 0 then
      if since > 0 then redis.call('ZADD', key, 0, worker) end
    elseif since == 0 then
      redis.call('ZADD', key, int(now), worker)
      absent_count = absent_count + 1
    elseif now - since >= ask.absent_ms then
      long_absent[worker] = true
    else
      absent_count = absent_count + 1
    end
  end
  return long_absent, absent_count
end

local function load_claimant(root, account, id)
  return redis.call('HMGET', generation_key(root, account, id), 'worker', 'started')
end

-- Returns the leases of some workers, the worker of each, and by worker when it last renewed a lease (`beat`) and last
-- took one (`claim`). Both follow from the leases: one that was never renewed ends lease_ms after its claim.
local function leases_of(root, workers, lease_ms)
  local names, owners, last_seen = {}, {}, {}
  local leases = redis.call('ZRANGE', leases_key(root), 0, -1, 'WITHSCORES')
  for i = 1, #leases, 2 do
    local worker, started = unpack(damage.run_guarded(root, leases[i], load_claimant) or {})
    if worker and workers[worker] then
      table.insert(names, leases[i])
      table.insert(owners, worker)
      last_seen[worker] = last_seen[worker] or {}
      local at = tonumber(leases[i + 1]) - lease_ms
      local source = at > (tonumber(started) or 0) and 'beat' or 'claim'
      last_seen[worker][source] = math.max(last_seen[worker][source] or 0, at)
    end
  end
  return names, owners, last_seen
end

-- A worker renews all its leases at once, every beat_ms. It is absent from the time at which the next renewal is due,
-- or from its last claim if that is later; until absent_ms after that it is not dead. Returns how many workers are kept
-- so.
local function keep_renewing(root, long_absent, last_seen, ask, now)
  local kept_count = 0
  for worker, last in pairs(last_seen) do
    local due_at = math.max((last.beat or last.claim) + (ask.beat_ms or 0), last.claim or 0)
    if now - due_at < ask.absent_ms then
      redis.call('ZADD', claiming_workers_key(root), int(due_at), worker)
      long_absent[worker] = nil
      kept_count = kept_count + 1
    end
  end
  return kept_count
end

-- Ends the leases of dead workers now. A worker is removed and reported once it has none left.
local function end_leases_of_absent(root, info, ask, now)
  if string.find(info, '_mode:cluster', 1, true) then
    redis.call('DEL', claiming_workers_key(root))
    return {}, 0
  end
  if now < tonumber(redis.call('HGET', clocks_key(root), 'deaf') or 0) then return {}, 0 end
  local long_absent, absent_count = find_absent(root, ask, now)
  local dead_workers, leases_left = {}, ask.limit
  if not next(long_absent) then return dead_workers, absent_count end
  local names, owners, last_seen = leases_of(root, long_absent, ask.lease_ms)
  if ask.beat_ms then absent_count = absent_count + keep_renewing(root, long_absent, last_seen, ask, now) end
  for i, name in ipairs(names) do
    if long_absent[owners[i]] then
      redis.call('ZADD', leases_key(root), int(now), name)
      leases_left = leases_left - 1
      if leases_left == 0 then return dead_workers, absent_count end
    end
  end
  for worker in pairs(long_absent) do
    redis.call('ZREM', claiming_workers_key(root), worker)
    table.insert(dead_workers, worker)
  end
  if #dead_workers > 0 then record_deaths(root, #dead_workers, now) end
  return dead_workers, absent_count
end

-- Returns whether all resources that a parked turn waits for are unavailable: then it stays parked until the next
-- check.
local function is_closed(root, account, id, record, ask)
  if not ask.closed or not is_parked(root, account, id, record) then return false end
  local closed = {}
  for _, resource in ipairs(ask.closed) do closed[resource] = true end
  for resource in string.gmatch(record.parked, ' (%S+)') do
    if not closed[resource] then return false end
  end
  return true
end

local function requeue_due(root, account, id, ask, now)
  local record, name = load_generation(root, account, id), member(account, id)
  damage.check(record)
  if is_closed(root, account, id, record, ask) then
    redis.call('ZADD', deferred_key(root), int(now + ask.recheck_ms), name)
    return
  end
  unpark(root, account, id, record)
  if stages.waits_until(record) then return stages.end_wait(root, account, id, record, now) end
  redis.call('ZREM', deferred_key(root), name)
  enqueue(root, account, id, record)
end

local function expire(root, account, id, ask)
  local record = load_generation(root, account, id)
  damage.check(record)
  end_without_worker(root, account, id, record, 'failed', EXPIRED, ask.keep)
  return {account, id, 'expired'}
end

-- Returns what was set aside since the last reap: {account:id, why, what became of its hold}...
local function take_unreported(root, is_any)
  local found = {}
  if not is_any and not damage.is_damage_new then return found end
  for name, why, hold in string.gmatch(redis.call('HGET', clocks_key(root), 'damaged') or '', '(%S+) (%S+) (%S+)\n') do
    table.insert(found, {name, why, hold})
  end
  redis.call('HDEL', clocks_key(root), 'damaged')
  return found
end

local function ready_lanes(root)
  local found = {}
  for _, lane in ipairs(LANES) do
    if redis.call('EXISTS', lane_key(root, lane)) == 1 or has_suspects(root, lane) then table.insert(found, lane) end
  end
  return found
end

local function reap(root, ask)
  local at, done = now_ms(), {}
  local now = int(at)
  local info = redis.call('INFO', 'server')
  damage.is_damage_new = false
  local is_away, set_back_ms, unreported = detect_gap(root, info, at, ask.gap_ms)
  if is_away then renew_all_leases(root, at, ask.lease_ms) end
  if set_back_ms > ask.gap_ms then shift_times(root, set_back_ms, at) end
  local dead_workers, absent_count = end_leases_of_absent(root, info, ask, at)
  expire_leases(root, now, ask, done)
  for _, name in ipairs(names_due(deadlines_key(root), now, ask.limit)) do
    table.insert(done, damage.run_guarded(root, name, expire, ask))
  end
  for _, name in ipairs(names_due(deferred_key(root), now, ask.limit)) do
    damage.run_guarded(root, name, requeue_due, ask, at)
  end
  return {
    done, dead_workers, absent_count, redis.call('SMEMBERS', parked_queues_key(root)), ready_lanes(root),
    take_unreported(root, unreported),
  }
end

register('reap', reap)
