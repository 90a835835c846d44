-- release: hand a claimed generation back, to the front of its account's ready turns or for a later time.
-- ASK      account, id, attempt, delay_ms (0: ready now, in the stage `queued`), keep; if any: calls (made of upstreams
--          in all), is_waiting (only for room, which is no deferral), why (a code), parked (the resources that it waits
--          for, between blanks: it may go before the delay has passed), is_elsewhere (other workers have the resources)
-- RETURNS  'released', 'cancelled' (a cancel was pending, and it has ended) or 'refused'
-- ATOMIC   because a generation is always in exactly one of: ready, leased, deferred, ended.
-- Followers of a deferred generation get the stage `retrying` as the last event of the attempt.

local function defer(root, record, ask, retry_at)
  if not ask.parked then
    redis.call('ZADD', deferred_key(root), int(retry_at), member(ask.account, ask.id))
    return
  end
  park(root, ask.account, ask.id, record, ask.parked, retry_at)
  if not ask.is_elsewhere then return end
  for resource in string.gmatch(ask.parked, '%S+') do push_wakeup(wakeup_for_key(root, record.lane, resource)) end
end

local function release(root, ask)
  local record = load_generation(root, ask.account, ask.id)
  if not record or tonumber(record.attempt) ~= ask.attempt then return 'refused' end
  if not redis.call('ZSCORE', leases_key(root), member(ask.account, ask.id)) then return 'refused' end
  local fault = damage.find_fault(record)
  if fault then
    damage.set_aside(root, ask.account, ask.id, fault)
    return 'refused'
  end
  if record.cancel then
    end_without_worker(root, ask.account, ask.id, record, 'cancelled', CANCELLED, ask.keep)
    return 'cancelled'
  end
  -- A turn that only waits for room was not tried.
  if not ask.is_waiting then clear_suspicion(root, ask.account, ask.id, record) end
  local key = generation_key(root, ask.account, ask.id)
  if ask.delay_ms > 0 then
    retry_later(root, ask.account, ask.id, record, ask.why or 'DEFERRED')
    redis.call('HINCRBY', key, ask.is_waiting and 'waits' or 'retries', 1)
    end_lease(root, ask.account, ask.id, record.lane)
    defer(root, record, ask, now_ms() + ask.delay_ms)
  else
    requeue(root, ask.account, ask.id, record, 'RELEASED')
  end
  redis.call('HSET', key, 'calls', ask.calls or 0)
  return 'released'
end

register('release', release)
