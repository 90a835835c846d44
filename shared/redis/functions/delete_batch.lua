-- delete_batch: take a batch out of its account's list, and free its quota and its Idempotency-Key.
-- ASK      account, batch; is_due: only if its upload was given up, or its retention is over
-- RETURNS  'deleting' (also when repeated before all of it is deleted), 'running' (it has not ended, or is not due) or
--          'unknown'
-- ATOMIC   because a batch that is half deleted must not be listed, nor count in a quota.
-- Its chunks are deleted by `delete_batch_pieces`, which the caller sends next, or a chore if the caller dies. Until
-- then the string of starts says how many there are.

local ENDED = {completed = true, failed = true, cancelled = true, expired = true}

local function may_delete(ask, state, upload_ends, delete_at)
  local due = tonumber(state == 'validating' and upload_ends or delete_at or 0)
  return (ENDED[state] or state == 'validating') and (not ask.is_due or due <= now_ms())
end

-- Leaves a string of starts that says how many chunks there are to delete: an upload has none yet.
local function note_chunks(root, account, batch, chunks)
  local starts = batch_starts_key(root, account, batch)
  if chunks > 0 and redis.call('STRLEN', starts) < 4 * chunks then
    redis.call('SETRANGE', starts, int(4 * chunks - 1), '\0')
  elseif chunks == 0 then
    redis.call('DEL', starts)
  end
end

local function delete_batch(root, ask)
  local account, record = ask.account, batch_key(root, ask.account, ask.batch)
  local state, upload_ends, delete_at, idempotency, bytes, chunks = unpack(redis.call('HMGET', record, 'state',
    'upload_ends', 'delete_at', 'idempotency', 'bytes', 'chunks'))
  if not state then
    return redis.call('EXISTS', batch_starts_key(root, account, ask.batch)) == 1 and 'deleting' or 'unknown'
  end
  if not may_delete(ask, state, upload_ends, delete_at) then return 'running' end
  local is_sound, loaded = pcall(batches.load, root, account, ask.batch)
  if is_sound then batches.book(root, account, ask.batch, loaded) end
  local name, totals = member(account, ask.batch), account_totals_key(root, account)
  redis.call('ZADD', batch_work_key(root), int(now_ms()), name)
  redis.call('ZREM', batches_key(root, account), ask.batch)
  redis.call('ZREM', open_batches_key(root, account), ask.batch)
  delete_idempotency_record(root, account, idempotency, 'batch', ask.batch)
  redis.call('HINCRBY', totals, 'stored_batches', int(-(tonumber(bytes) or 0)))
  if state == 'validating' then redis.call('HINCRBY', totals, 'batch_uploads', '-1') end
  note_chunks(root, account, ask.batch, tonumber(chunks) or 0)
  redis.call('UNLINK', record, batch_order_key(root, account, ask.batch), batch_window_key(root, account, ask.batch))
  if not chunks then redis.call('ZREM', batch_work_key(root), name) end
  return 'deleting'
end

register('delete_batch', delete_batch)
