-- begin_batch: begin to store a batch whose body arrives from now on.
-- ASK      account, batch (its id), key (the API key's id), per_minute, open_max (batches that may be open at once),
--          stored_bytes_max, bytes_min (what the body takes at least), upload_ms (how long it may store nothing); if
--          given: idempotency, metadata (JSON), max_credits, dedupe, webhook
-- RETURNS  {'begun', rate} (no rate when this call is repeated), {'known', batch, fingerprint, its state, total,
--          invalid, copies and errors; no state where it was deleted}, {'uploading', ms until that upload counts as
--          given up}, {'mismatch'}, {'limited', rate} or {'quota', which, how much of it is used, rate}; rate is what
--          take_rate returns
-- ATOMIC   because two uploads with one Idempotency-Key must not both begin, and the open batches are counted exactly.
-- The Idempotency-Key has no fingerprint until `finish_upload` binds it to the body.

-- Returns the reply to a request whose Idempotency-Key was used before; nil where that upload was given up.
local function find_first(root, ask, now)
  local fingerprint, batch = unpack(redis.call('HMGET', idempotency_key(root, ask.account, ask.idempotency),
    'fingerprint', 'batch'))
  if not fingerprint then return nil end
  if not batch then return {'mismatch'} end
  local record = batch_key(root, ask.account, batch)
  if fingerprint ~= '' then
    return {'known', batch, fingerprint,
      unpack(redis.call('HMGET', record, 'state', 'total', 'invalid', 'copies', 'errors'))}
  end
  local ends = tonumber(redis.call('HGET', record, 'upload_ends') or 0)
  if ends <= now then return nil end
  return {'uploading', int(ends - now)}
end

local function find_quota(root, ask)
  local sum_0, sum_1, batch_bytes, uploads = unpack(redis.call('HMGET', account_totals_key(root, ask.account),
    'stored_0', 'stored_1', 'stored_batches', 'batch_uploads'))
  local open = redis.call('ZCARD', open_batches_key(root, ask.account)) + (uploads or 0)
  if open >= ask.open_max then return 'open_batches', open end
  return storage.find_exceeded_quota(root, ask.account, sum_0, sum_1, batch_bytes, nil, ask.bytes_min or 0,
    ask.stored_bytes_max)
end

local function write_record(ask, record, now)
  local fields = {'state', 'validating', 'created', int(now), 'upload_ends', int(now + ask.upload_ms), 'key', ask.key}
  local function add(name, value) if value then table.insert(fields, name) table.insert(fields, value) end end
  add('idempotency', ask.idempotency)
  add('metadata', ask.metadata)
  add('max_credits', ask.max_credits and int(ask.max_credits))
  add('webhook', ask.webhook)
  add('dedupe', ask.dedupe and '1')
  redis.call('HSET', record, unpack(fields))
end

local function begin_batch(root, ask)
  local account, record = ask.account, batch_key(root, ask.account, ask.batch)
  if redis.call('EXISTS', record) == 1 then return {'begun'} end
  local now = now_ms()
  local first = ask.idempotency and find_first(root, ask, now)
  if first then return first end
  local rate, is_within_limit = take_rate(root, account, ask.per_minute, now_us())
  if not is_within_limit then return {'limited', rate} end
  local quota, used = find_quota(root, ask)
  if quota then return {'quota', quota, used, rate} end

  -- The key that the whole partition shares comes first: where it is of another type, nothing is written.
  redis.call('ZADD', batch_work_key(root), int(now + ask.upload_ms), member(account, ask.batch))
  redis.call('ZADD', batches_key(root, account), int(now), ask.batch)
  redis.call('HINCRBY', account_totals_key(root, account), 'batch_uploads', '1')
  write_record(ask, record, now)
  if ask.idempotency then
    local receipt = idempotency_key(root, account, ask.idempotency)
    redis.call('DEL', receipt)
    redis.call('HSET', receipt, 'fingerprint', '', 'batch', ask.batch)
  end
  return {'begun', rate}
end

register('begin_batch', begin_batch)
