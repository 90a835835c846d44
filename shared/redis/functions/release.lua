-- release: hand a claimed generation back, to the front of its account's line or for a later time.
-- ASK      account, id, attempt, delay_ms (0: now, and the stage is `queued` again), keep
-- RETURNS  'released', 'cancelled' (it was to be stopped, and has ended) or 'refused'
-- ATOMIC   because a generation is always in exactly one of: ready, leased, deferred, ended.

local function release(root, ask)
  local record = load(root, ask.account, ask.id)
  if not record or tonumber(record.attempt) ~= ask.attempt then return 'refused' end
  if not redis.call('ZSCORE', leases_key(root), member(ask.account, ask.id)) then return 'refused' end
  if record.cancel then
    end_from_outside(root, ask.account, ask.id, record, 'cancelled', CANCELLED, ask.keep)
    return 'cancelled'
  end
  local stage = ask.delay_ms > 0 and 'retrying' or 'queued'
  check_step(record, stage)
  drop_lease(root, ask.account, ask.id, record.lane)
  local key = generation_key(root, ask.account, ask.id)
  redis.call('HDEL', key, 'worker')
  redis.call('HSET', key, 'stage', stage)
  redis.call('HINCRBY', key, ask.delay_ms > 0 and 'retries' or 'drains', 1)
  if ask.delay_ms > 0 then
    redis.call('ZADD', deferred_key(root), int(now_ms() + ask.delay_ms), member(ask.account, ask.id))
  else
    make_ready(root, ask.account, ask.id, record.lane, record.number)
  end
  return 'released'
end

register('release', release)
