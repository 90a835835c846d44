-- enqueue_items: let the next items of a batch enter the queue.
-- ASK      account, batch, position (of which the items were read), next (the position after them), run, chunk,
--          chunk_end, entries (at most 64, in order: {index, fault} for a line that is wrong, else {index, content,
--          model, wire, hold, size (of its submission), metadata, project, media}), blob (the submissions, joined),
--          window (how many items of the account may be in the queue), unfinished_max, total_max, running_max, stride,
--          keep_ms (how long the batch stays after its end); if so: is_memory_short
-- RETURNS  {'enqueued', count, position after them, 1 if the window is full}, {'moved', position, run} (read again),
--          {'stopped', state}, {'waits', reason} or {'paused', reason}
-- ATOMIC   because the position, the holds and the generations are stored together: two feeders, a repeated call or a
--          death between two calls neither lose nor double an item. A repeated call finds the position moved.
-- Entries are taken in order, as far as window and credits reach. A batch that lacks credits while items of it are open
-- waits for these, since their ends may give credits back.

-- Returns why an item cannot enter now, or nil.
local function find_obstacle(record, entry, room, balance)
  if room <= 0 then return 'window' end
  if entry.hold > balance then return 'credits' end
  if record.max_credits and record.used + record.held + entry.hold > record.max_credits then return 'max_credits' end
end

-- Returns how many entries can be taken, of which so many enter the queue, and what keeps the rest from it.
local function count_takeable(ask, record, room, balance)
  local queued, held = 0, record.held
  for i, entry in ipairs(ask.entries) do
    if not entry.fault then
      local obstacle = find_obstacle(record, entry, room, balance)
      if obstacle then
        record.held = held
        return i - 1, queued, obstacle
      end
      room, balance, queued, record.held = room - 1, balance - entry.hold, queued + 1, record.held + entry.hold
    end
  end
  record.held = held
  return #ask.entries, queued, nil
end

local function pack_message(id, entry, now)
  return cmsgpack.pack({
    id = id, generation = id, content = entry.content, created = now,
    model = entry.model ~= AUTO and entry.model or nil, metadata = entry.metadata, project = entry.project,
    media = entry.media,
  })
end

-- Writes an item's records. Returns its id, and the end of that which its window holds.
local function store_item(root, ask, record, entry, offset, number, now)
  local tail = int(entry.index) .. (ask.run > 1 and '-' .. int(ask.run) or '')
  local id = ask.batch .. '-' .. tail
  local generation = {
    account = ask.account, session = id, generation = id, lane = 'batch', model = entry.model, wire = entry.wire,
    hold = entry.hold, key = record.key or '', blob = string.sub(ask.blob, offset + 1, offset + entry.size),
  }
  local batch = {ask.batch, int(entry.index), int(ask.run), int(ask.chunk), int(ask.chunk_end)}
  enter_queue(root, generation, pack_message(id, entry, now), 1, int(number), int(now), int(record.deadline), true,
    nil, nil, table.concat(batch, ' '))
  return id, tail
end

-- Gives items their places in the queue, each list in one command, and wakes a worker for each.
local function place_items(root, ask, placed)
  local account = ask.account
  redis.call('ZADD', deadlines_key(root), unpack(placed.deadlines))
  redis.call('ZADD', unfinished_key(root, account, 'batch'), unpack(placed.ids))
  redis.call('SADD', batch_window_key(root, account, ask.batch), unpack(placed.tails))
  make_all_ready(root, account, 'batch', placed.ids, placed.wires)
end

local function take_holds(root, ask, hold)
  local totals = account_totals_key(root, ask.account)
  if hold > 0 then
    redis.call('HINCRBY', totals, 'balance', int(-hold))
    redis.call('HINCRBY', totals, 'held', int(hold))
  end
  local known = redis.call('HMGET', totals, 'lane_stride', 'running_most')
  if tonumber(known[1]) ~= ask.stride or tonumber(known[2]) ~= ask.running_max then
    redis.call('HSET', totals, 'lane_stride', ask.stride, 'running_most', ask.running_max)
    if known[2] and ask.running_max > tonumber(known[2]) then damage.enter_lanes(root, ask.account) end
  end
end

-- Counts the wrong lines among the first `count` entries as failed, and lets the others enter the queue.
local function take(root, ask, record, count, queued, now)
  local number, offset, held = 0, 0, 0
  local placed = {deadlines = {}, ids = {}, tails = {}, wires = {}}
  if queued > 0 then number = redis.call('HINCRBY', clocks_key(root), 'number', int(queued)) - queued end
  for i = 1, count do
    local entry = ask.entries[i]
    if not entry.fault then held = held + entry.hold end
  end
  take_holds(root, ask, held)
  for i = 1, count do
    local entry = ask.entries[i]
    if entry.fault then
      batches.note_item(root, ask.account, ask.batch, record, int(ask.chunk), entry.index, int(ask.run), 'f', 0)
    else
      number = number + 1
      local id, tail = store_item(root, ask, record, entry, offset, number, now)
      offset = offset + entry.size
      local at = 2 * #placed.tails
      placed.deadlines[at + 1], placed.deadlines[at + 2] = int(record.deadline), member(ask.account, id)
      placed.ids[at + 1], placed.ids[at + 2] = int(number), id
      placed.tails[#placed.tails + 1] = tail
      placed.wires[entry.wire] = (placed.wires[entry.wire] or 0) + 1
    end
  end
  if queued > 0 then place_items(root, ask, placed) end
  record.open, record.held = record.open + queued, record.held + held
  -- Only failures run again.
  if ask.run > 1 then record.failed = record.failed - queued end
end

-- Moves the position, and writes what the batch is now. Returns the position.
local function move(root, ask, record, count, queued, now)
  local position = count == #ask.entries and ask.next or ask.entries[count + 1].index
  local key, chunk = batch_key(root, ask.account, ask.batch), int(ask.chunk)
  local fields = {'low', int(math.floor(ask.window / 2)), 'keep_ms', int(ask.keep_ms), 'fed_chunk', chunk}
  local function set(name, value) fields[#fields + 1], fields[#fields + 2] = name, value end
  record.keep_ms, record.low = ask.keep_ms, math.floor(ask.window / 2)
  if ask.run == 1 then
    record.position = position
    set('position', int(position))
  elseif position < record.total then
    record.retrying = position
    set('retrying', int(position))
  else
    record.retrying = nil
    redis.call('HDEL', key, 'retrying')
  end
  if not record.started then set('started', int(now)) end
  if record.state == 'paused' then
    record.state = 'running'
    redis.call('HDEL', key, 'reason')
    set('state', 'running')
  end
  redis.call('HSET', key, unpack(fields))
  local hash = batch_chunk_key(root, ask.account, ask.batch, chunk)
  if count > 0 or redis.call('EXISTS', hash) == 1 then
    local left = redis.call('HINCRBY', hash, 'left', int(queued))
    batches.complete_chunk(root, ask.account, ask.batch, record, chunk, ask.chunk_end, left, now)
  end
  return position
end

-- Returns how many items the account's window has room for, and if none, why.
local function find_room(root, ask)
  local unfinished, in_lane = count_unfinished(root, ask.account, 'batch')
  if unfinished >= ask.unfinished_max then return 0, 'unfinished' end
  if redis.call('ZCARD', deadlines_key(root)) >= ask.total_max then return 0, 'full' end
  return ask.window - in_lane, 'window'
end

-- Keys are read before the first write: where one is of another type, nothing is written.
local function check_keys(root, ask)
  redis.call('ZCARD', ready_key(root, ask.account, 'batch'))
  redis.call('SCARD', batch_window_key(root, ask.account, ask.batch))
  redis.call('HLEN', batch_chunk_key(root, ask.account, ask.batch, int(ask.chunk)))
  redis.call('STRLEN', batch_order_key(root, ask.account, ask.batch))
  redis.call('ZCARD', open_batches_key(root, ask.account))
  redis.call('ZCARD', batch_work_key(root))
  redis.call('ZCARD', batch_chunks_to_pack_key(root))
end

local HOLDS_UP_ALL = {window = true, unfinished = true, full = true}

-- What does not enter now waits for an end of the batch's open items, or else the batch is paused.
local function wait_or_pause(root, ask, record, obstacle, now)
  local can_wait = obstacle ~= 'memory' and (record.open > 0 or obstacle ~= 'credits' and obstacle ~= 'max_credits')
  -- What holds up the whole account is no turn of this batch.
  if not HOLDS_UP_ALL[obstacle] then
    redis.call('ZADD', open_batches_key(root, ask.account), int(now_us()), ask.batch)
  end
  redis.call('HDEL', account_totals_key(root, ask.account), 'batch_feeding')
  redis.call('HSET', batch_key(root, ask.account, ask.batch), 'low', int(math.floor(ask.window / 2)))
  if can_wait then return {'waits', obstacle} end
  batches.pause(root, ask.account, ask.batch, record, obstacle, now)
  return {'paused', obstacle}
end

local function enqueue_items(root, ask)
  local record = batches.load_or_set_aside(root, ask.account, ask.batch)
  if not record or not batches.may_feed(record) then return {'stopped', record and record.state or ''} end
  local are_sound, problem = pcall(check_keys, root, ask)
  if not are_sound then
    batches.set_aside_if_damaged(root, ask.account, ask.batch, problem)
    return {'stopped', 'failed'}
  end
  local position = batches.fed_to(record)
  if ask.run ~= (record.runs or 1) or ask.position ~= position then return {'moved', position, record.runs or 1} end
  local now = now_ms()
  if record.deadline and record.deadline <= now then return {'stopped', 'expired'} end
  local room, why = find_room(root, ask)
  local balance = tonumber(redis.call('HGET', account_totals_key(root, ask.account), 'balance')) or 0
  local count, queued, obstacle = count_takeable(ask, record, room, balance)
  if obstacle == 'window' then obstacle = why end
  if ask.is_memory_short and queued > 0 then count, obstacle = 0, 'memory' end
  if count == 0 and obstacle then return wait_or_pause(root, ask, record, obstacle, now) end

  take(root, ask, record, count, queued, now)
  local after = move(root, ask, record, count, queued, now)
  redis.call('ZADD', open_batches_key(root, ask.account), int(now_us()), ask.batch)
  redis.call('ZADD', batch_work_key(root), int(math.min(now + batches.LOOK_MS, record.deadline or math.huge)),
    member(ask.account, ask.batch))
  batches.save(root, ask.account, ask.batch, record, now)
  local is_full = room - queued <= 0
  if is_full then
    redis.call('HDEL', account_totals_key(root, ask.account), 'batch_feeding')
  else
    redis.call('HSET', account_totals_key(root, ask.account), 'batch_feeding', int(now + batches.FEED_MS))
  end
  return {'enqueued', queued, after, is_full and 1 or 0}
end

register('enqueue_items', enqueue_items)
