-- Shared: batches. Their items are generations without a session, and are counted where they end.
--
-- A batch's items leave its packed input in order: `position` is the index of the next one, or `retrying`, while failed
-- items are run again. The items in the queue or running are the window (`batch-window`). The end of an item takes it
-- out of the window and gives it a number of finishing, in one call, so each is counted once. A chunk whose items have
-- all ended is noted in `batch-chunks-to-pack`. A damaged batch ends as failed, with the field `damaged`: its items
-- then end like any generation without a session.

local batches = {}

batches.COUNTS = {'total', 'chunks', 'position', 'open', 'seq', 'completed', 'failed', 'cancelled', 'expired', 'used',
  'held', 'unbooked'}
batches.COUNTS_IF_ANY = {'retrying', 'runs', 'low', 'max_credits', 'deadline', 'bytes', 'fed_chunk', 'keep_ms', 'unfed',
  'unbooked_overrun', 'time_ms', 'copies', 'copies_chunk'}
batches.FINAL = {completed = true, failed = true, cancelled = true, expired = true}
-- Reasons of a pause that ends by itself.
batches.WAITS = {credits = true, memory = true}
-- How long a worker has to fill an account's window before another one is asked to.
batches.FEED_MS = 2000
batches.MARK_EVERY_MS, batches.MARKS_MAX_BYTES = 1000, 640
-- When a batch that is under way is looked at again.
batches.LOOK_MS, batches.STOP_LOOK_MS = 5000, 1000
batches.KEPT_MS = 604800000
batches.STATES = {c = 'completed', f = 'failed', x = 'cancelled', e = 'expired'}

-- Returns a batch with its counts as numbers; nil where there is none. Raises an error where it is damaged.
function batches.load(root, account, id)
  local flat = redis.call('HGETALL', batch_key(root, account, id))
  if #flat == 0 then return nil end
  local record = {}
  for i = 1, #flat, 2 do record[flat[i]] = flat[i + 1] end
  for _, field in ipairs(batches.COUNTS) do
    local number = tonumber(record[field] or 0)
    if not number or number % 1 ~= 0 then error('DAMAGED batch.' .. field, 0) end
    record[field] = number
  end
  for _, field in ipairs(batches.COUNTS_IF_ANY) do
    if record[field] then
      local number = tonumber(record[field])
      if not number or number % 1 ~= 0 then error('DAMAGED batch.' .. field, 0) end
      record[field] = number
    end
  end
  return record
end

-- Returns what the end of an item needs of its batch, at the least cost. Raises an error where that is damaged.
local function load_counts(root, account, id)
  local state, stop, total, position, retrying, open, seq, used, held, unbooked, marks, low, keep_ms, unfed, reason,
    completed, failed, cancelled, expired, copies_chunk = unpack(redis.call('HMGET', batch_key(root, account, id),
    'state', 'stop', 'total', 'position', 'retrying', 'open', 'seq', 'used', 'held', 'unbooked', 'marks', 'low',
    'keep_ms', 'unfed', 'reason', 'completed', 'failed', 'cancelled', 'expired', 'copies_chunk'))
  if not state then return nil end
  -- Arithmetic makes numbers of the texts, and raises an error where one is none.
  local is_sound, record = pcall(function()
    return {
      state = state, stop = stop or nil, total = (total or 0) + 0, position = (position or 0) + 0,
      retrying = retrying and retrying + 0 or nil, open = (open or 0) + 0, seq = (seq or 0) + 0, used = (used or 0) + 0,
      held = (held or 0) + 0, unbooked = (unbooked or 0) + 0, marks = marks or nil, low = low and low + 0 or nil,
      keep_ms = keep_ms and keep_ms + 0 or nil, unfed = unfed and unfed + 0 or nil, reason = reason or nil,
      completed = (completed or 0) + 0, failed = (failed or 0) + 0, cancelled = (cancelled or 0) + 0,
      expired = (expired or 0) + 0, copies_chunk = copies_chunk and copies_chunk + 0 or nil,
    }
  end)
  if not is_sound then error('DAMAGED batch.counts', 0) end
  return record
end

-- Returns up to which index its items have entered the queue, in this run.
function batches.fed_to(record) return record.retrying or record.position end

-- Returns whether items are left that have not entered the queue.
function batches.has_left(record)
  return not record.stop and (record.position < record.total or record.retrying ~= nil)
end

-- Returns whether items may enter the queue now, or once what the batch waits for is there.
function batches.may_feed(record)
  return not record.stop and (record.state == 'running' or record.state == 'paused' and batches.WAITS[record.reason])
    and true or false
end

-- Called where a batch has ended or was paused, before its caller returns.
function batches.note_state(root, account, id, record, state)
  account_log.append(root, account, 'batch.' .. state, id, {
    now = now_ms(), keep_ms = tonumber(record.log_ms), actor = record.key, webhook_url = record.webhook,
  })
end

-- Ends a damaged batch, as far as its keys allow, and takes it out of all work.
function batches.set_aside(root, account, id, problem)
  local name, key = member(account, id), batch_key(root, account, id)
  for _, set_key in ipairs({open_batches_key(root, account), batch_work_key(root)}) do
    redis.pcall('ZREM', set_key, set_key == batch_work_key(root) and name or id)
  end
  local now, record = now_ms(), nil
  if not damage.is_wrong_type('HGET', key, 'state') then
    record = load_hash(key)
    if record.state == 'validating' then
      redis.pcall('HINCRBY', account_totals_key(root, account), 'batch_uploads', '-1')
    end
    redis.call('HSET', key, 'state', 'failed', 'damaged', '1', 'finished', int(now), 'open', '0',
      'delete_at', int(now + batches.KEPT_MS))
    redis.call('HDEL', key, 'reason', 'stop', 'retrying')
    redis.pcall('ZADD', batch_work_key(root), int(now + batches.KEPT_MS), name)
  end
  local why = string.match(damage.error_text(problem), 'DAMAGED (%S+)') or 'batch'
  damage.record_damage(root, name, why, 'released')
  if record and record.state and not batches.FINAL[record.state] then
    batches.note_state(root, account, id, record, 'failed')
  end
end

-- Called after an error of reading a batch's keys. Any other error is raised again.
function batches.set_aside_if_damaged(root, account, id, problem)
  local text = damage.error_text(problem)
  if not string.find(text, 'DAMAGED', 1, true) and not string.find(text, 'WRONGTYPE', 1, true) then
    error(problem, 0)
  end
  batches.set_aside(root, account, id, problem)
end

-- Returns a batch; nil where there is none, or where it was damaged.
function batches.load_or_set_aside(root, account, id)
  local is_sound, record = pcall(batches.load, root, account, id)
  if is_sound then return record end
  batches.set_aside_if_damaged(root, account, id, record)
  return nil
end

-- Pauses a batch for a reason. One that waits for credits or memory is looked at again by itself.
function batches.pause(root, account, id, record, reason, now)
  local was = record.state == 'paused' and record.reason
  record.state, record.reason = 'paused', reason
  redis.call('HSET', batch_key(root, account, id), 'state', 'paused', 'reason', reason)
  local at = batches.WAITS[reason] and now + batches.LOOK_MS or record.deadline or now + batches.KEPT_MS
  redis.call('ZADD', batch_work_key(root), int(math.min(at, record.deadline or at)), member(account, id))
  if was ~= reason then batches.note_state(root, account, id, record, 'paused') end
end

local function start_of(root, account, id, chunk)
  local packed = redis.call('GETRANGE', batch_starts_key(root, account, id), int(chunk * 4), int(chunk * 4 + 3))
  if #packed < 4 then error('DAMAGED batch-starts', 0) end
  return (struct.unpack('>I4', packed))
end

-- Returns the chunk that an item of a batch is in, and the indexes at which it begins and ends.
function batches.chunk_of(root, account, id, record, index)
  local low, high = 0, record.chunks - 1
  while low < high do
    local middle = math.ceil((low + high) / 2)
    if start_of(root, account, id, middle) <= index then low = middle else high = middle - 1 end
  end
  local chunk_end = low + 1 < record.chunks and start_of(root, account, id, low + 1) or record.total
  return low, start_of(root, account, id, low), chunk_end
end

batches.ID_LENGTH = 23

-- Returns which item a generation is, by its id, and by its record as far as that is sound.
local function parse_item(root, account, id, generation)
  local batch, index, run, chunk, chunk_end =
    string.match(generation.batch or '', '^(%S+) (%d+) (%d+) (%d+) (%d+)$')
  local record
  if not batch then
    batch = string.sub(id, 1, batches.ID_LENGTH)
    index, run = string.match(string.sub(id, batches.ID_LENGTH + 1), '^%-(%d+)%-?(%d*)$')
    if not index then return nil end
    record = batches.load(root, account, batch)
    if not record or record.chunks == 0 then return nil end
    if run == '' then run = '1' end
    local at, _, at_end = batches.chunk_of(root, account, batch, record, tonumber(index))
    chunk, chunk_end = int(at), at_end
  end
  return {
    batch = batch, index = tonumber(index), run = run, chunk = chunk, chunk_end = tonumber(chunk_end),
    tail = string.sub(id, #batch + 2), hold = tonumber(generation.hold) or 0,
    record = load_counts(root, account, batch),
  }
end

-- How many copies each item has is stored in parts, from `copies_chunk` on.
local COUNTS_PER_PART = 65536

-- Returns how many copies an item has, which end with it.
local function count_copies(root, account, item)
  local part, at = math.floor(item.index / COUNTS_PER_PART), item.index % COUNTS_PER_PART
  local key = batch_items_key(root, account, item.batch, int(item.record.copies_chunk + part))
  local packed = redis.call('GETRANGE', key, int(at * 4), int(at * 4 + 3))
  return #packed == 4 and struct.unpack('>I4', packed) or 0
end

-- Reads what the end of an item changes, before anything is written. Raises an error where it is damaged.
local function read_item(root, account, id, generation)
  local item = parse_item(root, account, id, generation)
  local record = item and item.record
  if not record or batches.FINAL[record.state] then return nil end
  local batch, chunk = item.batch, item.chunk
  if redis.call('SISMEMBER', batch_window_key(root, account, batch), item.tail) == 0 then return nil end
  item.left = tonumber(redis.call('HGET', batch_chunk_key(root, account, batch, chunk), 'left'))
  if not item.left then error('DAMAGED batch-chunk', 0) end
  redis.call('STRLEN', batch_order_key(root, account, batch))
  item.copies = record.copies_chunk and count_copies(root, account, item) or 0
  if item.left <= 1 then redis.call('ZCARD', batch_chunks_to_pack_key(root)) end
  if record.open <= 1 then
    redis.call('ZCARD', batch_work_key(root))
    redis.call('ZCARD', open_batches_key(root, account))
  end
  return item
end

-- Returns the item that a generation is; nil where its batch is gone or damaged, or has counted it already.
function batches.find_item(root, account, id, generation)
  local is_read, item = pcall(read_item, root, account, id, generation)
  if is_read then return item end
  local batch = string.match(generation.batch or '', '^(%S+)') or string.sub(id, 1, batches.ID_LENGTH)
  batches.set_aside_if_damaged(root, account, batch, item)
  return nil
end

-- Adds to `marks` how many had ended at this time, once a second at most. Returns the field's new text, or nil.
local function add_mark(record, now)
  local marks = record.marks or ''
  local last = tonumber(string.match(marks, '(%d+) %d+$') or 0)
  if now - last < batches.MARK_EVERY_MS then return nil end
  marks = marks .. (marks == '' and '' or ' ') .. int(now) .. ' ' .. int(record.seq)
  if #marks > batches.MARKS_MAX_BYTES then marks = string.match(marks, '^%d+ %d+ (.*)$') end
  return marks
end

-- Notes that an item has ended, in the chunk's hash and the order of finishing, and counts it in `record`, which the
-- caller writes. `letter` is one of STATES, `left` how many of the chunk's items are then open, if that changes.
function batches.note_item(root, account, id, record, chunk, index, run, letter, captured, left)
  record.seq = record.seq + 1
  local state = batches.STATES[letter]
  record[state] = record[state] + 1
  redis.call('SETRANGE', batch_order_key(root, account, id), int((record.seq - 1) * 4), struct.pack('>I4', index))
  local ended = int(record.seq) .. ' ' .. run .. ' ' .. letter .. ' ' .. int(captured)
  if left then
    redis.call('HSET', batch_chunk_key(root, account, id, chunk), int(index), ended, 'left', int(left))
  else
    redis.call('HSET', batch_chunk_key(root, account, id, chunk), int(index), ended)
  end
end

-- Notes a chunk whose items have all ended, if this is one. Returns whether it is.
function batches.complete_chunk(root, account, id, record, chunk, chunk_end, left, now)
  if left > 0 or (batches.fed_to(record) < chunk_end and not record.stop) then return false end
  redis.call('ZADD', batch_chunks_to_pack_key(root), int(now), member(account, id) .. ':' .. chunk)
  return true
end

-- Writes a batch's counts, and ends it if nothing is left of it. Returns its state.
function batches.save(root, account, id, record, now)
  local key = batch_key(root, account, id)
  local marks = add_mark(record, now)
  if record.open == 0 then record.held = 0 end
  local fields = {'open', int(record.open), 'seq', int(record.seq), 'completed', int(record.completed),
    'failed', int(record.failed), 'cancelled', int(record.cancelled), 'expired', int(record.expired),
    'used', int(record.used), 'held', int(record.held), 'unbooked', int(record.unbooked)}
  if marks then fields[#fields + 1], fields[#fields + 2] = 'marks', marks end
  redis.call('HSET', key, unpack(fields))
  if record.open > 0 or batches.has_left(record) then return record.state end
  local state = record.stop or (record.completed > 0 and 'completed' or 'failed')
  local delete_at = int(now + (record.keep_ms or batches.KEPT_MS))
  record.state, record.reason = state, nil
  redis.call('HSET', key, 'state', state, 'finished', int(now), 'delete_at', delete_at)
  redis.call('HDEL', key, 'reason', 'stop', 'retrying')
  redis.call('ZREM', open_batches_key(root, account), id)
  redis.call('ZADD', batch_work_key(root), record.unfed and int(now) or delete_at, member(account, id))
  -- `record` may have the counts only.
  batches.note_state(root, account, id, load_hash(key), state)
  return state
end

-- Returns whether the account's window is so empty that a worker shall fill it; one is asked at a time. The item that
-- ends is still in it.
local function wants_feed(root, account, record, now)
  local is_low = record.low and redis.call('ZCARD', unfinished_key(root, account, 'batch')) - 1 <= record.low
  if not is_low then return false end
  local has_left = batches.has_left(record) and batches.may_feed(record)
  if not has_left and redis.call('ZCARD', open_batches_key(root, account)) < 2 then return false end
  local totals = account_totals_key(root, account)
  local fed_until = tonumber(redis.call('HGET', totals, 'batch_feeding')) or 0
  -- A mark further ahead than possible was set before the clock was set back.
  if fed_until > now and fed_until <= now + batches.FEED_MS then return false end
  redis.call('HSET', totals, 'batch_feeding', int(now + batches.FEED_MS))
  return true
end

-- Counts the copies of an item that has ended. One that ran again had failed, and its copies with it.
local function note_copies(root, account, item, state)
  local key = batch_key(root, account, item.batch)
  redis.call('HINCRBY', key, 'copies_' .. state, int(item.copies))
  if item.run ~= '1' then redis.call('HINCRBY', key, 'copies_failed', int(-item.copies)) end
end

local LETTERS = {completed = 'c', failed = 'f', cancelled = 'x'}

-- Counts the end of an item; `is_booked`: its charge is in the ledger. Returns what a worker shall do: 1 fill the
-- account's window, 2 pack a chunk, 3 both; nil for nothing.
function batches.note_end(root, account, item, stage, failure, captured, overrun, now, is_booked)
  local record, id = item.record, item.batch
  local letter = failure and stage == 'failed' and failure.code == EXPIRED.code and 'e' or LETTERS[stage]
  redis.call('SREM', batch_window_key(root, account, id), item.tail)
  record.open = math.max(0, record.open - 1)
  record.used, record.held = record.used + captured, math.max(0, record.held - item.hold)
  if not is_booked then record.unbooked = record.unbooked + captured end
  if overrun > 0 and not is_booked then
    redis.call('HINCRBY', batch_key(root, account, id), 'unbooked_overrun', int(overrun))
  end
  batches.note_item(root, account, id, record, item.chunk, item.index, item.run, letter, captured, item.left - 1)
  if item.copies > 0 then note_copies(root, account, item, batches.STATES[letter]) end
  local hint = batches.complete_chunk(root, account, id, record, item.chunk, item.chunk_end, item.left - 1, now) and 2
    or 0
  local state = batches.save(root, account, id, record, now)
  if not batches.FINAL[state] and wants_feed(root, account, record, now)
    or batches.FINAL[state] and redis.call('EXISTS', open_batches_key(root, account)) == 1 then
    hint = hint + 1
  end
  return hint > 0 and hint or nil
end

-- Counts an item that was set aside as damaged: as failed, and for nothing.
function batches.note_damaged(root, account, id, generation)
  local item = batches.find_item(root, account, id, generation)
  if item then
    batches.note_end(root, account, item, 'failed', nil, 0, 0, now_ms(), true)
    batches.keep(root, account, id)
  end
end

-- An item's record and messages stay until its chunk is packed, also where another end let them expire.
function batches.keep(root, account, id)
  redis.call('PERSIST', generation_key(root, account, id))
  redis.call('PERSIST', turns_key(root, account, id, '0'))
end

-- Writes one ledger entry for all that a batch has captured since the last one.
function batches.book(root, account, id, record)
  local overrun = record.unbooked_overrun or 0
  if record.unbooked == 0 and overrun == 0 then return end
  write_ledger(root, account, {
    kind = 'charge', generation = id, amount = record.unbooked, overrun = overrun > 0 and overrun or nil,
    key = record.key,
  })
  redis.call('HSET', batch_key(root, account, id), 'unbooked', '0')
  redis.call('HDEL', batch_key(root, account, id), 'unbooked_overrun')
  record.unbooked, record.unbooked_overrun = 0, nil
end

-- Returns the ended items of a chunk's hash, with what `delete_items` needs, and their seqs.
function batches.ended_items(hash)
  local items = {}
  for index, value in pairs(hash) do
    local seq, run, letter = string.match(value, '^(%d+) (%d+) (%a) %d+$')
    if seq then table.insert(items, {index = index, seq = seq, run = run, letter = letter}) end
  end
  return items
end

-- Of how many items the keys are deleted in one command.
batches.DELETED_AT_ONCE = 16

-- Deletes all that is stored of some items as generations; each names its `index`, `run` and `letter`.
function batches.delete_items(root, account, id, items)
  local names = {}
  for i, item in ipairs(items) do
    local generation = id .. '-' .. item.index .. (item.run == '1' and '' or '-' .. item.run)
    for _, name in ipairs({generation_key(root, account, generation), events_key(root, account, generation),
      turns_key(root, account, generation, '0'), submission_key(root, account, generation),
      text_key(root, account, generation), rounds_key(root, account, generation)}) do
      names[#names + 1] = name
    end
    if i % batches.DELETED_AT_ONCE == 0 or i == #items then
      redis.call('UNLINK', unpack(names))
      names = {}
    end
    if item.letter == 'f' then delete_dead_letter(root, account, generation) end
  end
end
