-- end_open_items: end items of a stopped batch that are in the queue or run, up to 16 in a call.
-- ASK      account, batch, cursor ('0' at first), keep, channels
-- RETURNS  {how many are open, cursor of the next call: '' once all have been ended or their workers asked to stop}
-- ATOMIC   because an item must not be claimed between the check and its end.
-- A cancel only asks the worker of a running item to stop; a deadline ends it at once, and the worker is refused later.

local ENDED_MAX = 16

local function end_item(root, account, id, ask, stop, now)
  local record = load_generation(root, account, id)
  if not record or is_final(record) then return false end
  damage.check(record)
  if stop == 'expired' and tonumber(record.deadline) <= now then
    end_without_worker(root, account, id, record, 'failed', EXPIRED, ask.keep)
    return true
  end
  if record.cancel then return false end
  cancel_generation(root, account, id, record, ask.keep, ask.channels)
  return true
end

local function end_open_items(root, ask)
  local record = batches.load_or_set_aside(root, ask.account, ask.batch)
  if not record or not record.stop then return {record and record.open or 0, ''} end
  local reply = redis.call('SSCAN', batch_window_key(root, ask.account, ask.batch), ask.cursor, 'COUNT', ENDED_MAX)
  local next_cursor, ended, now = reply[1], 0, now_ms()
  for _, tail in ipairs(reply[2]) do
    if ended >= ENDED_MAX then return {record.open, ask.cursor} end
    local name = member(ask.account, ask.batch .. '-' .. tail)
    if damage.run_guarded(root, name, end_item, ask, record.stop, now) then ended = ended + 1 end
  end
  local left = batches.load_or_set_aside(root, ask.account, ask.batch)
  return {left and left.open or 0, next_cursor == '0' and '' or next_cursor}
end

register('end_open_items', end_open_items)
