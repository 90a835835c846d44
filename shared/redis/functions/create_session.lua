-- create_session: begin a session that has no turn yet.
-- ASK      account, id, name, per_minute; if given: companion, metadata, idempotency, fingerprint, idempotency_ms
-- RETURNS  {'created', rate} (without one when this call is repeated), {'replayed', session}, {'mismatch'} or
--          {'limited', rate}; rate as take_rate returns it
-- ATOMIC   because a session that is not in its account's list, or a repeated request that makes a second one,
--          would be nobody's.

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
  local rate, is_in_time = take_rate(root, ask.account, ask.per_minute, now_us())
  if not is_in_time then return {'limited', rate} end
  local now = now_ms()
  redis.call('HSET', session, 'name', ask.name, 'created', now, 'active', now, 'turns', 0, 'tokens', 0)
  if ask.companion then redis.call('HSET', session, 'companion', ask.companion) end
  if ask.metadata then redis.call('HSET', session, 'metadata', cmsgpack.pack(ask.metadata)) end
  redis.call('ZADD', sessions_key(root, ask.account), now, ask.id)
  if receipt then
    redis.call('HSET', receipt, 'fingerprint', ask.fingerprint, 'session', ask.id)
    redis.call('PEXPIRE', receipt, ask.idempotency_ms)
    redis.call('HSET', session, 'idempotency', ask.idempotency)
  end
  return {'created', rate}
end

register('create_session', create_session)
