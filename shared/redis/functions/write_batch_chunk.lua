-- write_batch_chunk: store the next chunk of a batch that is being uploaded, and renew the upload.
-- ASK      account, batch, chunk (its number, from 0), items (how many it holds), upload_ms, stored_bytes_max, blob
--          (the chunk; empty to renew only)
-- RETURNS  {'written'}, {'gone'} (the upload has ended or was given up) or {'quota', how much is stored}
-- ATOMIC   because the chunk, its bytes in the account's sum and the number of chunks belong together.
-- A repeated call finds its chunk counted and only renews.

-- Counts the chunk's bytes. Returns how much is stored where they would exceed the quota.
local function find_exceeded(root, ask)
  local sum_0, sum_1, batch_bytes = unpack(redis.call('HMGET', account_totals_key(root, ask.account), 'stored_0',
    'stored_1', 'stored_batches'))
  local _, used = storage.find_exceeded_quota(root, ask.account, sum_0, sum_1, batch_bytes, nil, #ask.blob,
    ask.stored_bytes_max)
  return used
end

local function write_batch_chunk(root, ask)
  local account, record = ask.account, batch_key(root, ask.account, ask.batch)
  local state, chunks, total, bytes = unpack(redis.call('HMGET', record, 'state', 'chunks', 'total', 'bytes'))
  if state ~= 'validating' then return {'gone'} end
  local is_new = #ask.blob > 0 and ask.chunk == tonumber(chunks or 0)
  local used = is_new and find_exceeded(root, ask)
  if used then return {'quota', used} end
  local ends = int(now_ms() + ask.upload_ms)
  redis.call('ZADD', batch_work_key(root), ends, member(account, ask.batch))
  redis.call('HSET', record, 'upload_ends', ends)
  if is_new then
    redis.call('SET', batch_items_key(root, account, ask.batch, int(ask.chunk)), ask.blob)
    redis.call('HSET', record, 'chunks', int(ask.chunk + 1), 'total', int((total or 0) + ask.items), 'bytes',
      int((bytes or 0) + #ask.blob))
    redis.call('HINCRBY', account_totals_key(root, account), 'stored_batches', int(#ask.blob))
  end
  return {'written'}
end

register('write_batch_chunk', write_batch_chunk)
