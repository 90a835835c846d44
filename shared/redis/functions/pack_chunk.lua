-- pack_chunk: replace a chunk's generations, messages and input by their packed results.
-- ASK      account, batch, chunk, seqs ({index, seq}: what the results contain beyond those packed before), blob (the
--          results, as stored)
-- RETURNS  'packed' (also when repeated), 'changed' (read the chunk again) or 'gone' (there is no such batch,
--          or its keys are damaged)
-- ATOMIC   because an answer must be in one of both places, and each charge in the ledger once.
-- A chunk of which nothing entered the queue before a stop (`unfed`) has no seqs.

-- Returns the ended items of a chunk's hash; nil where these are not exactly those of the blob.
local function match_items(hash, seqs)
  local expected, items = {}, batches.ended_items(hash)
  for _, pair in ipairs(seqs) do expected[int(pair[1])] = int(pair[2]) end
  for _, item in ipairs(items) do
    if expected[item.index] ~= item.seq then return nil end
  end
  return #items == #seqs and items or nil
end

local function store(root, ask, record, now)
  local account, id, chunk = ask.account, ask.batch, int(ask.chunk)
  local input, results = batch_items_key(root, account, id, chunk), batch_results_key(root, account, id, chunk)
  local added = #ask.blob - redis.call('STRLEN', input) - redis.call('STRLEN', results)
  redis.call('SET', results, ask.blob)
  redis.call('UNLINK', input, batch_chunk_key(root, account, id, chunk))
  redis.call('HINCRBY', batch_key(root, account, id), 'bytes', int(added))
  redis.call('HINCRBY', account_totals_key(root, account), 'stored_batches', int(added))
  batches.book(root, account, id, record)
  if record.unfed ~= ask.chunk then return end
  local key = batch_key(root, account, id)
  if ask.chunk + 1 < record.chunks then
    redis.call('HSET', key, 'unfed', int(ask.chunk + 1))
  else
    redis.call('HDEL', key, 'unfed')
    if batches.FINAL[record.state] then
      redis.call('ZADD', batch_work_key(root), record.delete_at or int(now + batches.KEPT_MS), member(account, id))
    end
  end
end

local function check_keys(root, account, id, chunk)
  redis.call('HLEN', batch_chunk_key(root, account, id, chunk))
  for _, key in ipairs({batch_items_key(root, account, id, chunk), batch_results_key(root, account, id, chunk),
    batch_starts_key(root, account, id)}) do
    redis.call('STRLEN', key)
  end
end

local function pack_chunk(root, ask)
  local account, id, chunk = ask.account, ask.batch, int(ask.chunk)
  local name = member(account, id) .. ':' .. chunk
  local record = batches.load_or_set_aside(root, account, id)
  if not record then
    redis.call('ZREM', batch_chunks_to_pack_key(root), name)
    return 'gone'
  end
  local are_sound, problem = pcall(check_keys, root, account, id, chunk)
  if not are_sound then
    redis.call('ZREM', batch_chunks_to_pack_key(root), name)
    batches.set_aside_if_damaged(root, account, id, problem)
    return 'gone'
  end
  local hash = load_hash(batch_chunk_key(root, account, id, chunk))
  if not hash and record.unfed ~= ask.chunk then
    redis.call('ZREM', batch_chunks_to_pack_key(root), name)
    return 'packed'
  end
  local items = match_items(hash or {}, ask.seqs)
  if not items or tonumber(hash and hash.left or 0) > 0 then return 'changed' end
  redis.call('ZREM', batch_chunks_to_pack_key(root), name)
  store(root, ask, record, now_ms())
  batches.delete_items(root, account, id, items)
  return 'packed'
end

register('pack_chunk', pack_chunk)
