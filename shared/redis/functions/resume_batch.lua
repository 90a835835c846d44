-- resume_batch: let items of a paused batch enter the queue again.
-- ASK      account, batch; if any: max_credits (its new limit)
-- RETURNS  {state} (running), {'unknown'}, or {'conflict', state} (it has ended, is about to, or is not uploaded yet)
-- ATOMIC   because the limit and the state belong together.

local function resume_batch(root, ask)
  local record = batches.load_or_set_aside(root, ask.account, ask.batch)
  if not record then return {'unknown'} end
  if record.stop or (record.state ~= 'running' and record.state ~= 'paused') then return {'conflict', record.state} end
  local key = batch_key(root, ask.account, ask.batch)
  if ask.max_credits then redis.call('HSET', key, 'max_credits', int(ask.max_credits)) end
  redis.call('HSET', key, 'state', 'running')
  redis.call('HDEL', key, 'reason')
  redis.call('ZADD', batch_work_key(root), now_ms(), member(ask.account, ask.batch))
  return {'running'}
end

register('resume_batch', resume_batch)
