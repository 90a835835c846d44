-- stop_batch: end what a batch has not begun, whatever its size; `end_open_items` ends the rest.
-- ASK      account, batch, stop ('cancelled' or 'expired'); is_deleted: its retention ends with it
-- RETURNS  {state, how many items are open, 1 if a stop is under way}; {'unknown'} where there is none
-- ATOMIC   because no item may enter the queue between the count and the stop.
-- An 'expired' stop does nothing before the deadline. A repeated call finds the stop, or the end.

-- Notes the chunks that never entered the queue, whose input is replaced in the background, and the one that entered in
-- part, if its items have ended.
local function settle_chunks(root, ask, record, now)
  local fed = record.fed_chunk
  if fed then
    local left = redis.call('HGET', batch_chunk_key(root, ask.account, ask.batch, int(fed)), 'left')
    if left then batches.complete_chunk(root, ask.account, ask.batch, record, int(fed), 0, tonumber(left), now) end
  end
  if record.position >= record.total then return end
  record.unfed = fed and fed + 1 or 0
  if record.unfed >= record.chunks then record.unfed = nil end
  if record.unfed then redis.call('HSET', batch_key(root, ask.account, ask.batch), 'unfed', int(record.unfed)) end
end

local function stop_batch(root, ask)
  local account, id = ask.account, ask.batch
  local record = batches.load_or_set_aside(root, account, id)
  if not record then return {'unknown'} end
  if ask.is_deleted and not batches.FINAL[record.state] then
    redis.call('HSET', batch_key(root, account, id), 'keep_ms', '0')
    record.keep_ms = 0
  end
  if record.stop then return {record.state, record.open, 1} end
  local now = now_ms()
  local is_early = ask.stop == 'expired' and (not record.deadline or record.deadline > now)
  if is_early or (record.state ~= 'running' and record.state ~= 'paused') then return {record.state, record.open, 0} end
  local key = batch_key(root, account, id)
  redis.call('ZCARD', open_batches_key(root, account))
  redis.call('ZADD', batch_work_key(root), int(now), member(account, id))
  redis.call('HSET', key, 'stop', ask.stop)
  redis.call('HDEL', key, 'reason', 'retrying')
  record[ask.stop] = record[ask.stop] + math.max(0, record.total - record.position)
  record.stop, record.retrying = ask.stop, nil
  settle_chunks(root, ask, record, now)
  local state = batches.save(root, account, id, record, now)
  return {state, record.open, batches.FINAL[state] and 0 or 1}
end

register('stop_batch', stop_batch)
