-- plan_feed: find which items of an account's batches enter the queue next.
-- ASK      account; if any: skip (batches that have just been tried in vain)
-- RETURNS  {'none'}; {'damaged', batch}; {'pack', batch, chunk} (before its failures can run again); or {'feed', batch,
--          position, run, chunk, the indexes at which it begins and ends, of a retry the last seq that is run again,
--          the chunk's items, its results}; the last two as stored, or nil
-- ATOMIC   because position and chunk must be of the same moment. It only reads: `enqueue_items` checks the position.
-- The batch that fed the queue the longest ago comes first, so that an account's batches take turns.

local BATCHES_TRIED = 512

local function describe(root, account, id, record)
  local position = batches.fed_to(record)
  if record.total == 0 then return {'feed', id, 0, record.runs or 1, 0, 0, 0, 0} end
  local chunk, first, last = batches.chunk_of(root, account, id, record, position)
  if not record.retrying then
    return {'feed', id, position, record.runs or 1, chunk, first, last, 0,
      redis.call('GET', batch_items_key(root, account, id, int(chunk)))}
  end
  if position == first and redis.call('EXISTS', batch_chunk_key(root, account, id, int(chunk))) == 1 then
    return {'pack', id, chunk}
  end
  return {'feed', id, position, record.runs or 1, chunk, first, last, tonumber(record.retried_seq or 0), false,
    redis.call('GET', batch_results_key(root, account, id, int(chunk)))}
end

-- Returns whether a batch may have items to feed, at little cost: most of an account's open batches may be paused.
local function is_candidate(root, account, id)
  local found = redis.pcall('HMGET', batch_key(root, account, id), 'state', 'reason', 'stop', 'total', 'position',
    'retrying')
  -- A key of another type is found again, as damage.
  if found.err then return true end
  local state, reason, stop, total, position, retrying = unpack(found)
  if state == 'paused' and not batches.WAITS[reason or ''] or stop then return false end
  return state and (retrying or position ~= total or total == '0')
end

local function plan_feed(root, ask)
  local skipped = {}
  for _, id in ipairs(ask.skip or {}) do skipped[id] = true end
  for _, id in ipairs(redis.call('ZRANGE', open_batches_key(root, ask.account), 0, BATCHES_TRIED - 1)) do
    if not skipped[id] and is_candidate(root, ask.account, id) then
      local is_sound, record = pcall(batches.load, root, ask.account, id)
      if not is_sound then return {'damaged', id} end
      local is_open = record and batches.may_feed(record)
      if is_open and (batches.has_left(record) or record.total == 0) then
        local is_described, plan = pcall(describe, root, ask.account, id, record)
        return is_described and plan or {'damaged', id}
      end
    end
  end
  return {'none'}
end

register('plan_feed', plan_feed, true)
