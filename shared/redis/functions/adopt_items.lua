-- adopt_items: look after a batch that is under way: count items that a process of an older version has ended.
-- ASK      account, batch, cursor ('0' at first)
-- RETURNS  {state, cursor of the next call: '' at the end, 1 if items may enter the queue, 1 if a stop is under way,
--          the chunk whose input a stop left unused (-1: none), 1 if the deadline has passed}; {'unknown'}
-- ATOMIC   because an item must be counted once.
-- Such a process ends an item by a cancel, a deadline or a crash, charges it itself, and leaves it in the window.

local SCANNED = 128

-- Most items are open, and a window of numbers is scanned in one step.
local function is_open(root, account, id)
  local stage = redis.pcall('HGET', generation_key(root, account, id), 'stage')
  local next_stages = type(stage) == 'string' and TRANSITIONS[stage]
  return next_stages and next(next_stages) ~= nil
end

local function adopt(root, account, id)
  if is_open(root, account, id) then return end
  local record = load_generation(root, account, id)
  local item = batches.find_item(root, account, id, record or {})
  if not item then return end
  local message = redis.call('HGET', turns_key(root, account, id, '0'), '1:a')
  local is_read, answer = pcall(cmsgpack.unpack, message or '')
  local failure = is_read and type(answer) == 'table' and answer.failure or nil
  -- Its hold has ended with it.
  item.hold = tonumber(redis.call('HGET', batch_key(root, account, item.batch), 'held')) or 0
  item.hold = item.record.open > 0 and math.floor(item.hold / item.record.open) or item.hold
  batches.note_end(root, account, item, record and record.stage or 'failed', failure,
    tonumber(record and record.captured or 0), 0, now_ms(), true)
  batches.keep(root, account, id)
end

-- Counts the ends among some items of the window. Returns the cursor of the next ones, '0' at the end.
local function adopt_some(root, account, id, cursor)
  local is_read, reply = pcall(redis.call, 'SSCAN', batch_window_key(root, account, id), cursor, 'COUNT', SCANNED)
  if not is_read then
    batches.set_aside_if_damaged(root, account, id, reply)
    return '0'
  end
  for _, tail in ipairs(reply[2]) do adopt(root, account, id .. '-' .. tail) end
  return reply[1]
end

-- Whatever becomes of a batch now, it makes room for those behind it that are due.
local function schedule(root, account, id, record, now)
  local at = now + (record.stop and batches.STOP_LOOK_MS or batches.LOOK_MS)
  if record.state == 'validating' then
    at = tonumber(record.upload_ends) or at
  elseif batches.FINAL[record.state] then
    at = record.unfed and now + batches.STOP_LOOK_MS or tonumber(record.delete_at) or now + batches.KEPT_MS
  elseif record.deadline and record.deadline > now then
    at = math.min(at, record.deadline)
  end
  redis.call('ZADD', batch_work_key(root), int(at), member(account, id))
end

local function adopt_items(root, ask)
  local account, id = ask.account, ask.batch
  local record = batches.load_or_set_aside(root, account, id)
  if not record then
    redis.call('ZREM', batch_work_key(root), member(account, id))
    return {'unknown'}
  end
  local next_cursor = '0'
  if not batches.FINAL[record.state] then
    next_cursor = adopt_some(root, account, id, ask.cursor)
    record = batches.load_or_set_aside(root, account, id) or record
  end
  local now = now_ms()
  schedule(root, account, id, record, now)
  return {record.state, next_cursor == '0' and '' or next_cursor,
    batches.may_feed(record) and (batches.has_left(record) or record.total == 0) and 1 or 0, record.stop and 1 or 0,
    record.unfed or -1, record.deadline and record.deadline <= now and 1 or 0}
end

register('adopt_items', adopt_items)
