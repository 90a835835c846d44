-- delete_batch_pieces: delete some of the chunks of a deleted batch, the last ones first.
-- ASK      account, batch
-- RETURNS  how many chunks are left
-- ATOMIC   because two callers may do it at once, and the string of starts must say which chunks are left.

-- Each has up to three keys.
local CHUNKS_AT_ONCE = 32
-- The generations of a chunk that was not packed have up to six keys each.
local UNPACKED_AT_ONCE = 2

-- Deletes the generations of the last chunks that were not packed. Returns how many of the `chunks` are left, at least
-- `left`: so many as one call can delete.
local function delete_unpacked(root, account, batch, left, chunks)
  local unpacked = 0
  for chunk = chunks - 1, left, -1 do
    local hash = load_hash(batch_chunk_key(root, account, batch, int(chunk)))
    if hash then
      if unpacked == UNPACKED_AT_ONCE then return chunk + 1 end
      unpacked = unpacked + 1
      batches.delete_items(root, account, batch, batches.ended_items(hash))
    end
  end
  return left
end

local function delete_batch_pieces(root, ask)
  local account, batch, starts = ask.account, ask.batch, batch_starts_key(root, ask.account, ask.batch)
  if redis.call('EXISTS', batch_key(root, account, batch)) == 1 then return 0 end
  local chunks = math.floor(redis.call('STRLEN', starts) / 4)
  local left, deleted = math.max(0, chunks - CHUNKS_AT_ONCE), {starts}
  left = delete_unpacked(root, account, batch, left, chunks)
  for chunk = left, chunks - 1 do
    table.insert(deleted, batch_items_key(root, account, batch, int(chunk)))
    table.insert(deleted, batch_chunk_key(root, account, batch, int(chunk)))
    table.insert(deleted, batch_results_key(root, account, batch, int(chunk)))
  end
  local rest = left > 0 and redis.call('GETRANGE', starts, 0, int(4 * left - 1))
  redis.call('UNLINK', unpack(deleted))
  if rest then
    redis.call('SET', starts, rest)
  else
    redis.call('ZREM', batch_work_key(root), member(account, batch))
  end
  return left
end

register('delete_batch_pieces', delete_batch_pieces)
