-- reap: put right what time has overtaken: lapsed leases, passed deadlines, deferrals that are due.
-- ASK      limit (of each kind), crashes_max, lease_ms, gap_ms, keep
-- RETURNS  {made ready, {account, id, what}...}; what is 'crashed', 'buried', 'expired' or 'cancelled'
-- ATOMIC   because any worker may reap, and a generation must be handed on once.
-- A lease that lapsed while nobody could renew it says nothing of its worker: after a gap in the reaping, or
-- on a server that has been started anew, every lease is first given its whole time again.

local function expire_lease(root, name, ask)
  local account, id = split(name)
  local record = load(root, account, id)
  drop_lease(root, account, id, record.lane)
  if record.cancel then
    local _, moved = end_from_outside(root, account, id, record, 'cancelled', CANCELLED, ask.keep)
    return {account, id, 'cancelled'}, moved
  end
  local crashes = redis.call('HINCRBY', generation_key(root, account, id), 'crashes', 1)
  if crashes >= ask.crashes_max then
    local _, moved = end_from_outside(root, account, id, record, 'failed', CRASHED, ask.keep)
    return {account, id, 'buried'}, moved
  end
  check_step(record, 'retrying')
  redis.call('HDEL', generation_key(root, account, id), 'worker')
  redis.call('HSET', generation_key(root, account, id), 'stage', 'retrying')
  make_ready(root, account, id, record.lane, record.number)
  return {account, id, 'crashed'}, 1
end

local function was_away(root, now, gap_ms)
  local key = clocks_key(root)
  local server = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  local known = redis.call('HMGET', key, 'reaped', 'server')
  redis.call('HSET', key, 'reaped', int(now), 'server', server)
  return known[1] and (now - tonumber(known[1]) > gap_ms or known[2] ~= server)
end

local function renew_all(root, ends)
  for _, name in ipairs(redis.call('ZRANGE', leases_key(root), 0, -1)) do
    redis.call('ZADD', leases_key(root), ends, name)
  end
end

local function due(key, now, limit)
  return redis.call('ZRANGE', key, '-inf', now, 'BYSCORE', 'LIMIT', 0, limit)
end

local function reap(root, ask)
  local at, ready, done = now_ms(), 0, {}
  local now = int(at)
  if was_away(root, at, ask.gap_ms) then renew_all(root, int(at + ask.lease_ms)) end
  for _, name in ipairs(due(leases_key(root), now, ask.limit)) do
    local what, moved = expire_lease(root, name, ask)
    ready = ready + moved
    table.insert(done, what)
  end
  for _, name in ipairs(due(deadlines_key(root), now, ask.limit)) do
    local account, id = split(name)
    local _, moved = end_from_outside(root, account, id, load(root, account, id), 'failed', EXPIRED, ask.keep)
    ready = ready + moved
    table.insert(done, {account, id, 'expired'})
  end
  for _, name in ipairs(due(deferred_key(root), now, ask.limit)) do
    local account, id = split(name)
    local record = load(root, account, id)
    redis.call('ZREM', deferred_key(root), name)
    make_ready(root, account, id, record.lane, record.number)
    ready = ready + 1
  end
  return {ready, done}
end

register('reap', reap)
