-- finish_upload: the body of a batch has ended, so it runs.
-- ASK      account, batch, total, invalid (items), chunks, deadline_ms, blob (the index of the first item of each
--          chunk, 4 bytes each); if given: fingerprint (of the body and the options, where it has an Idempotency-Key),
--          errors (JSON: what is wrong with its first invalid items, for the answer to a repeated request), copies (of
--          its items), copies_chunk (from which on how many copies each item has is stored: `batches.count_copies`)
-- RETURNS  {'running', when it began, ms} (also when repeated) or {'gone'} (the upload was given up)
-- ATOMIC   because a batch that runs, its deadline and the body that its Idempotency-Key stands for belong together.

local function holds_key(root, ask, idempotency)
  if not idempotency then return true end
  return redis.call('HGET', idempotency_key(root, ask.account, idempotency), 'batch') == ask.batch
end

local function finish_upload(root, ask)
  local account, record = ask.account, batch_key(root, ask.account, ask.batch)
  local state, chunks, bytes, idempotency, started = unpack(redis.call('HMGET', record, 'state', 'chunks', 'bytes',
    'idempotency', 'started'))
  if started then return {'running', int(tonumber(started))} end
  -- Another upload may have taken over the Idempotency-Key of one that stored nothing for long.
  -- Of each chunk written, of copies too, the blob has the start.
  local is_whole = state == 'validating' and tonumber(chunks or 0) == #ask.blob / 4
  if not is_whole or not holds_key(root, ask, idempotency) then return {'gone'} end
  local now = now_ms()
  redis.call('ZADD', batch_work_key(root), int(now), member(account, ask.batch))
  redis.call('ZADD', open_batches_key(root, account), 0, ask.batch)
  redis.call('SET', batch_starts_key(root, account, ask.batch), ask.blob)
  local added = #ask.blob + #(ask.errors or '')
  redis.call('HSET', record, 'state', 'running', 'started', int(now), 'deadline', int(now + ask.deadline_ms),
    'total', int(ask.total), 'invalid', int(ask.invalid), 'bytes', int((bytes or 0) + added))
  if ask.copies_chunk then
    redis.call('HSET', record, 'chunks', int(ask.chunks), 'copies', int(ask.copies), 'copies_chunk',
      int(ask.copies_chunk))
  end
  if ask.errors then redis.call('HSET', record, 'errors', ask.errors) end
  redis.call('HDEL', record, 'upload_ends')
  redis.call('HINCRBY', account_totals_key(root, account), 'stored_batches', int(added))
  redis.call('HINCRBY', account_totals_key(root, account), 'batch_uploads', '-1')
  if idempotency then
    redis.call('HSET', record, 'fingerprint', ask.fingerprint)
    redis.call('HSET', idempotency_key(root, account, idempotency), 'fingerprint', ask.fingerprint)
  end
  return {'running', int(now)}
end

register('finish_upload', finish_upload)
