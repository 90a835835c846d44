-- Shared: what an attempt appends, and the log of finished rounds.
--
-- A round is a call of a model that ended with calls of tools; each result is appended to the log as well. The field
-- `kept` says what stands after the finished rounds: how many entries the log has, how many bytes and code points of
-- the text they have shown, and what is due for them (in the form of `bill`). A later attempt starts from there: its
-- claim cuts the text to it. Example: '2 120 118 1 420 900 150 0 0 0 gpt-5' is a log of two entries that attempt 1
-- finished, and 120 bytes of text. A generation without finished rounds has neither field nor log.
--
-- An attempt that waits for a person is suspended: no worker has it, and it stands in `deferred` until its wait ends.
-- The field `suspended` says since when and until when, in ms. Among its account's unfinished generations it stands
-- behind all others, which do not wait for it: SUSPENDED_OFFSET is added to its number.
--
-- A stage that older processes do not know is stored in two fields: `stage` has one that they know, `finer_stage` the
-- stage itself. It counts only beside that one, since an older process changes `stage` alone.

local rounds, stages = {}, {}

-- The log outlives the deadline by so much, after which no attempt can read it. An older process that ends the
-- generation does not delete it.
rounds.MARGIN_MS = 3600000

-- A worker that reads no newer wire than before this one (TURN_WIRE) would drop what rounds have shown.
rounds.WIRE = 4
stages.SUSPENDED_OFFSET = 1000000000000000

function stages.of(record)
  local finer = record.finer_stage
  return finer and STORED_AS[finer] == record.stage and finer or record.stage
end

-- Stores a stage that an attempt enters, if it may follow the present one. `stored` is the field `stage`, and another.
function stages.enter(key, stored, stage)
  local before = stored
  if STORED_AS[stage] then
    before = stages.of({stage = stored, finer_stage = redis.call('HGET', key, 'finer_stage')})
    if before == stage then return end
  end
  check_transition({stage = before}, stage)
  if STORED_AS[stage] then
    redis.call('HSET', key, 'stage', STORED_AS[stage], 'finer_stage', stage)
  else
    redis.call('HSET', key, 'stage', stage)
  end
end

-- Returns when the wait of a suspended generation ends by itself; nil where it does not wait.
function stages.waits_until(record)
  local ends = record.suspended and stages.of(record) == 'awaiting_approval'
    and string.match(record.suspended, '^%d+ (%d+)$')
  return ends and tonumber(ends)
end

function stages.suspended_score(record) return int(tonumber(record.number) + stages.SUSPENDED_OFFSET) end

function stages.unfinished_score(record)
  return stages.waits_until(record) and stages.suspended_score(record) or record.number
end

function stages.count_suspended(root, account, lane)
  return redis.call('ZCOUNT', unfinished_key(root, account, lane), int(stages.SUSPENDED_OFFSET), '+inf')
end

-- Returns by how many ms waits for people have moved a generation's deadline.
function stages.waited_ms(record)
  local since, ends = string.match(record.suspended or '', '^(%d+) (%d+)$')
  return (tonumber(record.waited) or 0) + (ends and tonumber(ends) - tonumber(since) or 0)
end

-- Ends the wait of a suspended generation, which becomes ready. Its deadline is now as far ahead as it was when the
-- wait began: it was set for a wait that ends by itself.
function stages.end_wait(root, account, id, record, now)
  local key, name, seq = generation_key(root, account, id), member(account, id), int(tonumber(record.seq) + 1)
  local waits_until = stages.waits_until(record)
  local saved_ms = waits_until - math.min(now, waits_until)
  local deadline = int(tonumber(record.deadline) - saved_ms)
  redis.call('ZREM', deferred_key(root), name)
  redis.call('ZADD', deadlines_key(root), deadline, name)
  redis.call('ZADD', unfinished_key(root, account, record.lane), record.number, id)
  redis.call('HDEL', key, 'finer_stage', 'suspended')
  redis.call('HSET', key, 'stage', 'queued', 'seq', seq, 'deadline', deadline,
    'waited', int(stages.waited_ms(record) - saved_ms))
  append_event(root, account, id, record.attempt, seq, STAGE_EVENTS.queued)
  enqueue(root, account, id, record)
end

function rounds.ms_to_keep(deadline) return math.max(0, deadline - now_ms()) + rounds.MARGIN_MS end

-- Called at a claim. A wait that ended under an older process has left its fields behind.
function stages.leave(root, account, id, record)
  local key = generation_key(root, account, id)
  if record.suspended then redis.call('HSET', key, 'waited', int(stages.waited_ms(record))) end
  redis.call('HDEL', key, 'finer_stage', 'suspended')
  redis.call('ZADD', unfinished_key(root, account, record.lane), record.number, id)
end

function rounds.parse(kept)
  local count, bytes, points, attempt, due = string.match(kept, '^(%d+) (%d+) (%d+) (%d+) (.+)$')
  return count and {
    count = tonumber(count), bytes = tonumber(bytes), points = tonumber(points), attempt = tonumber(attempt), due = due,
  }
end

-- Checks finished rounds before the first write for them, and returns for how many ms their log is kept.
function rounds.check(root, ask)
  local finished = ask.rounds
  local before, deadline, wire =
    unpack(redis.call('HMGET', generation_key(root, ask.account, ask.id), 'kept', 'deadline', 'wire'))
  finished.wire = math.max(tonumber(wire), rounds.WIRE)
  local count = redis.call('LLEN', rounds_key(root, ask.account, ask.id))
  local bytes = redis.call('STRLEN', text_key(root, ask.account, ask.id)) + #(ask.text or '')
  local kept = before and rounds.parse(before) or {count = 0, bytes = 0, points = 0}
  finished.count = count + #finished.entries
  -- Repeating such an append is recognized by its events.
  local is_whole = #ask.events > 0 and #finished.entries > 0 and kept.count == count
    and finished.text_bytes >= kept.bytes and finished.text_bytes <= bytes
    and finished.text_points >= kept.points and finished.text_points <= finished.text_bytes
    and string.match(finished.bill, '^(%d+) %d+ %d+ %d+ %d+ %d+ %d+ .') == int(ask.attempt)
  if not is_whole then error('ILLEGAL rounds after ' .. (before or 'none')) end
  return rounds.ms_to_keep(tonumber(deadline))
end

-- Adds rounds that `check` found whole to the log, and to `fields` what the record keeps of them. The six upstream
-- calls that a model turn may take are counted from 0 for the next one.
local function store_rounds(root, ask, fields, lasts_ms)
  local finished, log = ask.rounds, rounds_key(root, ask.account, ask.id)
  for _, entry in ipairs(finished.entries) do redis.call('RPUSH', log, entry) end
  redis.call('PEXPIRE', log, int(lasts_ms))
  for _, each in ipairs({
    'kept', string.format('%d %d %d %s', finished.count, finished.text_bytes, finished.text_points, finished.bill),
    'calls', '0', 'wire', int(finished.wire),
  }) do
    fields[#fields + 1] = each
  end
end

-- Drops the end of the text, and with it what was due for it.
local function cut_text(root, ask, record)
  local key, kept = text_key(root, ask.account, ask.id), ask.text_bytes_kept
  local text = kept > 0 and redis.call('GETRANGE', key, '0', int(kept - 1)) or ''
  if text == '' then redis.call('DEL', key) else redis.call('SET', key, text) end
  if not ask.bill then redis.call('HDEL', record, 'bill') end
end

-- Stores what an attempt has produced since its last append; `stored` is the record's field `stage`, `finer` its field
-- `finer_stage`. The caller has checked the token, the lease and that `seq` is new.
local function append_produced(root, ask, key, stored, finer)
  local kept_ms = ask.rounds and rounds.check(root, ask)
  local is_entered = ask.stage and ask.stage ~= stored
  if is_entered then stages.enter(key, stored, ask.stage) end
  for i, event in ipairs(ask.events) do
    append_event(root, ask.account, ask.id, ask.attempt, ask.seq + i - 1, event)
  end
  if ask.text_bytes_kept then cut_text(root, ask, key) end
  if ask.text then redis.call('APPEND', text_key(root, ask.account, ask.id), ask.text) end
  local fields = {'seq', int(ask.seq + #ask.events - 1)}
  if ask.progress then fields[3], fields[4] = 'progress', int(ask.progress) end
  local bill = ask.bill or ask.rounds and ask.rounds.bill
  if bill then fields[#fields + 1], fields[#fields + 2] = 'bill', bill end
  if ask.routed then fields[#fields + 1], fields[#fields + 2] = 'routed', int(ask.attempt) .. '-' .. int(ask.routed) end
  if finer and finer ~= '' and ask.stage and not is_entered then
    fields[#fields + 1], fields[#fields + 2] = 'finer_stage', ''
  end
  if ask.rounds then store_rounds(root, ask, fields, kept_ms) end
  redis.call('HSET', key, unpack(fields))
end

-- Returns what a later attempt starts from: `kept` of the record, and the text to cut to. Raises an error where the log
-- or the text is not what the record says.
function rounds.load_start(root, account, id, record)
  local kept = rounds.parse(record.kept)
  if redis.call('LLEN', rounds_key(root, account, id)) ~= kept.count then error('DAMAGED rounds', 0) end
  kept.text = kept.bytes > 0 and redis.call('GETRANGE', text_key(root, account, id), '0', int(kept.bytes - 1)) or ''
  if #kept.text ~= kept.bytes then error('DAMAGED text', 0) end
  return kept
end

-- Cuts the text to the finished rounds at the claim of a later attempt. The bill becomes one of this attempt, so that
-- an end before its first append still charges what the rounds have shown.
function rounds.start(root, account, id, attempt, kept)
  if kept.bytes > 0 then
    redis.call('SET', text_key(root, account, id), kept.text)
  else
    redis.call('DEL', text_key(root, account, id))
  end
  redis.call('HSET', generation_key(root, account, id), 'bill', int(attempt) .. ' ' .. kept.due)
  -- The constant's only digit is the 0 that says how much is kept.
  append_event(root, account, id, attempt, 1, (string.gsub(RESET, '0', int(kept.points))))
end

-- Deletes the events of an attempt, unless it or a later one finished a round: followers need what rounds have shown.
function rounds.trim_events(root, account, id, attempt, kept)
  if attempt <= kept.attempt then return end
  local name = events_key(root, account, id)
  repeat
    local page = redis.call('XRANGE', name, int(attempt), int(attempt), 'COUNT', 256)
    for _, entry in ipairs(page) do redis.call('XDEL', name, entry[1]) end
  until #page < 256
end

-- Deletes what only a generation with rounds or a wait has. An empty `finer_stage` stays with the record.
function rounds.delete(root, account, id, generation)
  local is_any = generation.kept or generation.resumed or generation.waited
  if not is_any and (generation.finer_stage or '') == '' then return end
  redis.call('DEL', rounds_key(root, account, id))
  redis.call('HDEL', generation_key(root, account, id), 'kept', 'finer_stage', 'suspended',
    'resumed', 'waited')
end
