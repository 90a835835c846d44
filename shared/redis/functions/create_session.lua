-- create_session: create a session that has no turn yet.
-- ASK      account, id, name, per_minute, sessions_max, stored_bytes_max; if given: companion, metadata, idempotency,
--          fingerprint, idempotency_ms
-- RETURNS  {'created', rate} (no rate when this call is repeated), {'replayed', session}, {'mismatch'}, {'limited',
--          rate} or {'quota', which, how much of it is used, rate}; rate is what take_rate returns
-- ATOMIC   because a session that is not in its account's list, or a second session from a repeated request, would
--          belong to nobody.

local function create_session(root, ask)
  local session = session_key(root, ask.account, ask.id)
  if redis.call('EXISTS', session) == 1 then return {'created'} end
  local receipt = ask.idempotency and idempotency_key(root, ask.account, ask.idempotency)
  if receipt then
    local fingerprint, id = unpack(redis.call('HMGET', receipt, 'fingerprint', 'session'))
    if fingerprint then
      if fingerprint ~= ask.fingerprint then return {'mismatch'} end
      return {'replayed', id}
    end
  end
  local rate, is_within_limit = take_rate(root, ask.account, ask.per_minute, now_us())
  if not is_within_limit then return {'limited', rate} end
  local now, metadata = now_ms(), ask.metadata and cmsgpack.pack(ask.metadata)
  local bytes = #ask.name + #(ask.companion or '') + #(metadata or '')
  local sum_0, sum_1, batch_bytes, side, counted_at = unpack(redis.call('HMGET', account_totals_key(root, ask.account),
    'stored_0', 'stored_1', 'stored_batches', 'stored_side', 'counted_at'))
  local quota, used = storage.find_exceeded_quota(root, ask.account, sum_0, sum_1, batch_bytes, ask.sessions_max, bytes,
    ask.stored_bytes_max)
  local recount_ms = quota and storage.RECOUNT_REFUSED_MS or storage.RECOUNT_MS
  storage.schedule_recount(root, ask.account, counted_at, recount_ms, now)
  if quota then return {'quota', quota, used, rate} end
  storage.add(root, ask.account, side, bytes)
  redis.call('HSET', session, 'name', ask.name, 'created', now, 'active', now, 'turns', 0, 'bytes', bytes,
    'side', side or '0')
  if ask.companion then redis.call('HSET', session, 'companion', ask.companion) end
  if metadata then redis.call('HSET', session, 'metadata', metadata) end
  redis.call('ZADD', sessions_key(root, ask.account), now, ask.id)
  if receipt then
    redis.call('HSET', receipt, 'fingerprint', ask.fingerprint, 'session', ask.id)
    redis.call('PEXPIRE', receipt, ask.idempotency_ms)
    redis.call('HSET', session, 'idempotency', ask.idempotency)
  end
  return {'created', rate}
end

register('create_session', create_session)
