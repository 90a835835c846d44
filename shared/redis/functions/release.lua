-- release: hand a claimed generation back, to the front of its account's line or for a later time.
-- ASK      account, id, attempt, delay_ms (0: now, and the stage is `queued` again), keep; if any: calls (made
--          upstream in all), is_waiting (only for room: it is no deferral), why (a code)
-- RETURNS  'released', 'cancelled' (it was to be stopped, and has ended) or 'refused'
-- ATOMIC   because a generation is always in exactly one of: ready, leased, deferred, ended.
-- What is deferred tells its followers so: the stage is an event of the attempt, its last.

local function release(root, ask)
  local record = load(root, ask.account, ask.id)
  if not record or tonumber(record.attempt) ~= ask.attempt then return 'refused' end
  if not redis.call('ZSCORE', leases_key(root), member(ask.account, ask.id)) then return 'refused' end
  if record.cancel then
    end_from_outside(root, ask.account, ask.id, record, 'cancelled', CANCELLED, ask.keep)
    return 'cancelled'
  end
  local key = generation_key(root, ask.account, ask.id)
  if ask.delay_ms > 0 then
    retry_later(root, ask.account, ask.id, record, ask.why or 'DEFERRED')
    redis.call('ZADD', deferred_key(root), int(now_ms() + ask.delay_ms), member(ask.account, ask.id))
    redis.call('HINCRBY', key, ask.is_waiting and 'waits' or 'retries', 1)
    drop_lease(root, ask.account, ask.id, record.lane)
  else
    give_back(root, ask.account, ask.id, record, 'RELEASED')
  end
  redis.call('HSET', key, 'calls', ask.calls or 0)
  return 'released'
end

register('release', release)
