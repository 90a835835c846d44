-- pause_batch: let no more items of a batch enter the queue until it is resumed.
-- ASK      account, batch
-- RETURNS  {state} (paused), {'unknown'}, or {'conflict', state} (it has ended, is about to, or is not uploaded yet)
-- ATOMIC   because items may enter the queue meanwhile.

local function pause_batch(root, ask)
  local record = batches.load_or_set_aside(root, ask.account, ask.batch)
  if not record then return {'unknown'} end
  if record.stop or (record.state ~= 'running' and record.state ~= 'paused') then return {'conflict', record.state} end
  if record.state == 'running' or record.reason ~= 'user' then
    batches.pause(root, ask.account, ask.batch, record, 'user', now_ms())
  end
  return {'paused'}
end

register('pause_batch', pause_batch)
