-- retry_batch: run the failed items of a batch that has ended again, in the same batch.
-- ASK      account, batch, open_max (batches of the account that may be open)
-- RETURNS  {state} (running; the state that it has where nothing failed), {'unknown'}, {'quota', 'open_batches' or
--          'batch_runs', how many there are} or {'conflict', state} (it has not ended, or a stop ended it)
-- ATOMIC   because the failures that are run again are those of one moment.
-- Lines that are wrong stay failed. The retry has as much time as the batch had.

-- Each run adds to the order of finishing, and ids of items have room for so many digits.
local RUNS_MAX = 100

local function retry_batch(root, ask)
  local account, id = ask.account, ask.batch
  local record = batches.load_or_set_aside(root, account, id)
  if not record then return {'unknown'} end
  local is_repeated = record.retrying and not record.stop
  if is_repeated then return {record.state} end
  if record.damaged or (record.state ~= 'completed' and record.state ~= 'failed') then
    return {'conflict', record.state}
  end
  if record.failed == 0 or record.total == 0 then return {record.state} end
  if (record.runs or 1) >= RUNS_MAX then return {'quota', 'batch_runs', record.runs} end
  local open_count = redis.call('ZCARD', open_batches_key(root, account))
  if open_count >= ask.open_max then return {'quota', 'open_batches', open_count} end
  local now, key = now_ms(), batch_key(root, account, id)
  -- Kept once: each retry moves the deadline.
  local time_ms = record.time_ms or (record.deadline or now) - (tonumber(record.started) or now)
  redis.call('ZCARD', batch_work_key(root))
  redis.call('HSET', key, 'state', 'running', 'retrying', '0', 'retried_seq', int(record.seq),
    'runs', int((record.runs or 1) + 1), 'time_ms', int(time_ms),
    'deadline', int(now + math.max(time_ms, batches.LOOK_MS)))
  redis.call('HDEL', key, 'finished', 'delete_at')
  redis.call('ZADD', open_batches_key(root, account), int(now), id)
  redis.call('ZADD', batch_work_key(root), int(now), member(account, id))
  return {'running'}
end

register('retry_batch', retry_batch)
