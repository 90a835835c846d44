-- restore: put unfinished generations back into the queues that they are missing from, as their records say.
-- ASK      names = {{account, id}...}, lease_ms (for those that a worker answers)
-- RETURNS  how many places were missing
-- ATOMIC   because a generation must not be claimed or settled between the check of its places and the write.
-- For an operator who has set aside keys that somebody else had overwritten. A generation that is where it should be
-- stays there; a deferred one is ready at once, unless it waits for a person. A worker that still answers keeps its
-- lease with its next renewal.

local function restore_place(root, account, id, record)
  local name, session = member(account, id), session_key(root, account, record.session)
  if not has_no_session(id, record) and redis.call('HGET', session, 'head') ~= id then
    return redis.call('ZADD', waiting_key(root, account, record.session), 'NX', record.turn, id)
  end
  for _, set_key in ipairs({deferred_key(root), suspects_key(root)}) do
    if redis.call('ZSCORE', set_key, name) then return 0 end
  end
  if redis.call('ZSCORE', ready_key(root, account, record.lane), id) then
    return join_lane(root, account, record.lane, record.wire)
  end
  if stages.waits_until(record) then
    return redis.call('ZADD', deferred_key(root), int(stages.waits_until(record)), name)
  end
  unpark(root, account, id, record)
  enqueue(root, account, id, record)
  return 1
end

local function restore_one(root, account, id, ask)
  local record, name, clocks = load_generation(root, account, id), member(account, id), clocks_key(root)
  if not record or damage.find_fault(record) or is_final(record) then return 0 end
  local count = redis.call('ZADD', deadlines_key(root), 'NX', record.deadline, name)
    + redis.call('ZADD', unfinished_key(root, account, record.lane), 'NX', stages.unfinished_score(record), id)
  if tonumber(redis.call('HGET', clocks, 'number') or 0) < tonumber(record.number) then
    redis.call('HSET', clocks, 'number', record.number)
  end
  if not record.worker then return count + restore_place(root, account, id, record) end
  redis.call('ZADD', claiming_workers_key(root), 'NX', 0, record.worker)
  return count + redis.call('ZADD', leases_key(root), 'NX', int(now_ms() + ask.lease_ms), name)
end

local function restore(root, ask)
  local count = 0
  for _, name in ipairs(ask.names) do
    local restored = damage.run_guarded(root, member(name[1], name[2]), restore_one, ask)
    count = count + (restored or 0)
  end
  return count
end

register('restore', restore)
