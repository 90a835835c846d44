-- count_submission: count what an account creates under another root as a submission, and reserve its Idempotency-Key.
-- ASK      account, per_minute, id (of what is to be created); if given: idempotency, fingerprint, idempotency_ms
-- RETURNS  {'taken', rate}, {'reserved', id} (by this call or an earlier request), {'mismatch'} or {'limited', rate};
--          rate is what take_rate returns
-- ATOMIC   because of two requests with the same Idempotency-Key one reserves it, and both get the same id.

local function count_submission(root, ask)
  local receipt = ask.idempotency and idempotency_key(root, ask.account, ask.idempotency)
  if receipt then
    local fingerprint, id = unpack(redis.call('HMGET', receipt, 'fingerprint', 'api_key'))
    if fingerprint and fingerprint ~= ask.fingerprint then return {'mismatch'} end
    if fingerprint then return {'reserved', id} end
  end
  local rate, is_within_limit = take_rate(root, ask.account, ask.per_minute, now_us())
  if not is_within_limit then return {'limited', rate} end
  if receipt then
    redis.call('HSET', receipt, 'fingerprint', ask.fingerprint, 'api_key', ask.id)
    redis.call('PEXPIRE', receipt, ask.idempotency_ms)
  end
  return {'taken', rate}
end

register('count_submission', count_submission)
