-- claim: give up to `count` ready generations to a worker, each with a lease and a fencing token.
-- ASK      worker, wire, count, batch (at most so many of them are of that lane), lease_ms, keep, claim (its
--          number among the worker's); if any: unacknowledged (the numbers of earlier ones, of which no reply came),
--          room = {resource = how many turns may begin with it now}, for what the worker has, and for circuits where
--          it differs from their provider's; batch_room, where a batch has room of its own; needs = {model = the
--          resources, between blanks, one of which its turns take}, where that is limited or another worker's;
--          recheck_ms (of what is parked), suspects (how many of those the worker has), suspects_max (how many it may
--          have; none: any number)
-- RETURNS  {now ms, 1 if more may be ready, {account, id, lane, attempt, turn, hold, deadline ms, accepted ms, retries,
--          calls, company (0: nobody suspects it), the resource with whose room it was taken (or none), submission,
--          user message, the session's system prompt and companion}...}
-- ATOMIC   because two workers must never get the same generation under the same token, and a generation
--          that left the queue without a lease would be nobody's.
-- A reply that is lost leaves generations with a worker that does not know of them: nobody repeats the call,
-- but the worker's next one names it, and gives them back before anything is taken.
-- When nothing is ready, no ring is due to anybody: the bell is emptied, so that no worker wakes for nothing.
-- Who waits for an answer goes first. But of so many claims that a batch has to look on at, one is its own:
-- it never starves.
-- A turn at the head of the line that needs what this worker lacks, or what has no room, is parked; where others have
-- it, one of them is rung for. Parked turns whose resource has room are taken like those in the lanes, in the same
-- virtual time.
-- A later attempt begins by dropping what was told: the text and, as its first event, the stream at once.
-- What is tried for hours is told of its last attempts only; the reset of any of them drops all before it.

local BATCH_EVERY, ATTEMPTS_STREAMED = 20, 64
-- Of accounts in a lane and in a line of parked turns, and of suspects.
local ACCOUNTS_TRIED, PARKED_TRIED, SUSPECTS_TRIED = 64, 64, 32
-- What has expired in the line is ended on the way, so many in one call: the server serves nobody meanwhile.
local ENDED_MAX = 64

-- Its record is known to be sound.
local function lease_turn(root, account, id, record, suspects_max, resource, ask, now)
  -- What cannot be claimed must not stand in the way of what can.
  if not TRANSITIONS[record.stage].routing then return nil end
  if tonumber(record.deadline) <= now then
    end_without_worker(root, account, id, record, 'failed', EXPIRED, ask.keep)
    return nil
  end
  -- All that may be damaged is read before anything is written.
  local submission = redis.call('GET', submission_key(root, account, id))
  local message = redis.call('HGET', turns_chunk_key(root, account, record.session, record.turn), record.turn .. ':u')
  local session = redis.call('HMGET', session_key(root, account, record.session), 'system', 'companion')
  if not submission or not message then error('DAMAGED what was asked', 0) end
  unpark(root, account, id, record)
  redis.call('ZADD', leases_key(root), int(now + ask.lease_ms), member(account, id))
  local attempt = tonumber(record.attempt) + 1
  local is_again = attempt > 1
  redis.call('HSET', generation_key(root, account, id), 'stage', 'routing', 'attempt', int(attempt),
    'worker', ask.worker, 'claim', int(ask.claim), 'started', int(now), 'seq', is_again and '1' or '0', 'progress', '0')
  local running = record.running or load_running(root, account)
  running[record.lane == 'batch' and 2 or 1] = redis.call('HINCRBY', account_totals_key(root, account), 'running_' .. record.lane, '1')
  leave_full_lanes(root, account, running)
  if is_again then
    redis.call('DEL', text_key(root, account, id))
    append_event(root, account, id, attempt, 1, RESET)
    if attempt > ATTEMPTS_STREAMED then
      redis.call('XTRIM', events_key(root, account, id), 'MINID', int(attempt - ATTEMPTS_STREAMED + 1) .. '-0')
    end
  end
  return {
    account, id, record.lane, attempt, tonumber(record.turn), record.hold, record.deadline, record.accepted,
    record.retries or '0', record.calls or '0', suspects_max, resource or '', submission, message, unpack(session),
  }
end

-- What is handled just now, by account, generation and lane: where that fails, it may be damaged.
local current_account, current_id, current_lane

-- The account with the least virtual time gives its oldest ready generation. One that this worker cannot
-- read waits for a worker that can, and the next account gives. Returns false where the line ends, nil where it goes on.
local function find_ready_from(root, lane, wire, first)
  for place = first, first + ACCOUNTS_TRIED - 1 do
    local account, time = unpack(redis.call('ZRANGE', lane_key(root, lane), int(place), int(place), 'WITHSCORES'))
    if not account then return false end
    current_account, current_id, current_lane = account, nil, lane
    local id, next_id = unpack(redis.call('ZRANGE', ready_key(root, account, lane), '0', '1'))
    current_id = id
    local record = load_generation(root, account, id)
    if not record or tonumber(record.wire) <= wire then return account, time, id, record, next_id end
  end
end

-- Where all of the first wait for another worker, as many of those behind them are tried, each time others.
local function find_first_ready(root, lane, wire)
  local account, time, id, record, next_id = find_ready_from(root, lane, wire, 0)
  if account ~= nil then return account, time, id, record, next_id end
  local remaining = redis.call('ZCARD', lane_key(root, lane)) - ACCOUNTS_TRIED
  if remaining <= 0 then return nil end
  return find_ready_from(root, lane, wire, ACCOUNTS_TRIED + now_us() % remaining)
end

-- The lane's clock never goes back, whoever is let in before it.
local function advance_clock(root, lane, time)
  local key = clocks_key(root)
  if time > tonumber(redis.call('HGET', key, lane) or 0) then redis.call('HSET', key, lane, int(time)) end
end

-- Where a batch has room of its own, that alone counts for it.
local function room_table(ask, lane, name)
  return lane == 'batch' and ask.batch_room and ask.batch_room[name] and ask.batch_room or ask.room
end

local function count_room(ask, lane, resource)
  local provider = string.match(resource, '^[^|]+')
  return room_table(ask, lane, resource)[resource] or room_table(ask, lane, provider)[provider] or 0
end

-- The first of some resources that has room.
local function first_with_room(ask, lane, resources)
  for resource in string.gmatch(resources, '%S+') do
    if count_room(ask, lane, resource) > 0 then return resource end
  end
end

local function use_room(ask, lane, resource)
  local provider = string.match(resource, '^[^|]+')
  for _, each in ipairs(resource == provider and {resource} or {resource, provider}) do
    local room = room_table(ask, lane, each)
    if room[each] then room[each] = room[each] - 1 end
  end
end

-- It cannot be taken here and now. Where this worker is not one of those that could, one of them may be idle.
local function park_for_room(root, account, id, record, resources, ask)
  remove_ready(root, account, id, record.lane)
  park(root, account, id, record, resources, now_ms() + ask.recheck_ms)
  for resource in string.gmatch(resources, '%S+') do
    local is_here = ask.room[resource] or ask.room[string.match(resource, '^[^|]+')]
    if not is_here then push_wakeup(wakeup_for_key(root, record.lane, resource)) end
  end
end

local function find_open_queues(root, ask)
  local parked_queues = {}
  for _, name in ipairs(next(ask.room) and redis.call('SMEMBERS', parked_queues_key(root)) or {}) do
    local lane, resource = split(name)
    local parked = parked_key(root, lane, resource)
    if damage.is_wrong_type('ZCARD', parked) then redis.call('DEL', parked) end
    if count_room(ask, lane, resource) > 0 then table.insert(parked_queues, {lane = lane, resource = resource}) end
  end
  return parked_queues
end

-- The suspects that the worker has, in the call under way.
local group

-- A parked turn that this worker may not run now stays parked, or it would be taken out and parked again and again.
local function can_run(ask, record)
  return tonumber(record.wire) <= ask.wire and can_join(group, suspects_max_in(group, record))
end

-- The turn that an account in a line would give next, of those that this worker may run.
local function next_parked(root, account, parked_queue, ask)
  if is_at_running_max(root, account, parked_queue.lane) then return nil end
  local id, record = first_parked(root, account, parked_queue, function(each) return can_run(ask, each) end)
  if id then return id, record, load_stride(root, account) end
end

-- Finds the turn that a line would give next. However long it waited, its account is let in as one that comes anew.
local function load_next(root, parked_queue, ask)
  parked_queue.is_loaded, parked_queue.id = true, nil
  local clock = tonumber(redis.call('HGET', clocks_key(root), parked_queue.lane) or 0)
  local accounts = redis.call('ZRANGE', parked_key(root, parked_queue.lane, parked_queue.resource), 0, PARKED_TRIED - 1, 'WITHSCORES')
  for i = 1, #accounts, 2 do
    local account = accounts[i]
    -- What is damaged there is found by who brings it back: all that is parked is deferred, too.
    local is_done, id, record, stride = pcall(next_parked, root, account, parked_queue, ask)
    if is_done and id then
      parked_queue.account, parked_queue.id, parked_queue.record = account, id, record
      parked_queue.time = math.max(clock - CLAIMS_AHEAD * stride, tonumber(accounts[i + 1]))
      return
    end
    if not is_done then damage.drop_parked_turns(root, account, parked_queue) end
  end
end

-- The line of a lane whose next turn comes first; one may stand in several, and have been taken from another.
local function first_parked_queue(root, lane, ask, parked_queues)
  local first
  for _, parked_queue in ipairs(parked_queues) do
    if parked_queue.lane == lane and count_room(ask, lane, parked_queue.resource) > 0 then
      local is_loaded = parked_queue.is_loaded and (not parked_queue.id
        or can_run(ask, parked_queue.record) and is_parked(root, parked_queue.account, parked_queue.id, parked_queue.record))
      if not is_loaded then load_next(root, parked_queue, ask) end
      if parked_queue.id and (not first or parked_queue.time < first.time) then first = parked_queue end
    end
  end
  return first
end

local function pop_parked(root, parked_queue, ask)
  current_account, current_id, current_lane = parked_queue.account, parked_queue.id, parked_queue.lane
  damage.check(parked_queue.record)
  local account, lane, after = parked_queue.account, parked_queue.lane, parked_queue.time + load_stride(root, parked_queue.account)
  redis.call('ZREM', deferred_key(root), member(account, parked_queue.id))
  unpark(root, account, parked_queue.id, parked_queue.record)
  parked_queue.record.parked, parked_queue.is_loaded = nil, false
  redis.call('ZADD', parked_key(root, lane, parked_queue.resource), 'XX', int(after), account)
  advance_clock(root, lane, parked_queue.time)
  if redis.call('ZSCORE', lane_key(root, lane), account) then
    redis.call('ZINCRBY', lane_key(root, lane), load_stride(root, account), account)
  else
    leave_lane(root, account, lane, math.max(after, tonumber(virtual_time(root, account, lane))))
  end
  return account, parked_queue.id, parked_queue.record, parked_queue.resource
end

-- It leaves the line, and its account moves on by its stride: the more weight it has, the shorter. Returns no record
-- for a turn that was parked.
local function pop(root, lane, ask, parked_queues)
  local account, time, id, record, next_id = find_first_ready(root, lane, ask.wire)
  local parked_queue = parked_queues[1] and first_parked_queue(root, lane, ask, parked_queues)
  if parked_queue and (not account or parked_queue.time <= tonumber(time)) then return pop_parked(root, parked_queue, ask) end
  if not account then return nil end
  current_account, current_id, current_lane = account, id, lane
  damage.check(record)
  local resources = ask.needs and ask.needs[record.model]
  local resource = resources and first_with_room(ask, lane, resources)
  if resources and not resource then
    park_for_room(root, account, id, record, resources, ask)
    return account, nil
  end
  advance_clock(root, lane, tonumber(time))
  redis.call('ZREM', ready_key(root, account, lane), id)
  record.running = load_running(root, account)
  local stride = tonumber(record.running[4]) or STRIDE_DEFAULT
  if next_id then
    redis.call('ZINCRBY', lane_key(root, lane), int(stride), account)
  else
    leave_lane(root, account, lane, time + stride)
  end
  return account, id, record, resource
end

-- Only what is handed out counts: what has expired uses no room, and joins nobody.
local function hand_out(root, account, id, record, suspects_max, resource, ask, now)
  local taken = lease_turn(root, account, id, record, suspects_max, resource, ask, now)
  if taken then
    if resource then use_room(ask, record.lane, resource) end
    join_group(root, group, account, id, record, suspects_max)
  end
  return taken
end

-- Take one suspect if it may run in this worker now; one for whose resource there is no room is parked. Returns what
-- a worker is handed.
local function take_suspect(root, account, id, ask, group, batch, now)
  local record, name = load_generation(root, account, id), member(account, id)
  damage.check(record)
  -- An older worker may have taken it without a look at this line.
  if not TRANSITIONS[record.stage].routing then
    redis.call('ZREM', suspects_key(root), name)
    return nil
  end
  if tonumber(record.wire) > ask.wire or (record.lane == 'batch' and batch <= 0) then return nil end
  local resources = ask.needs and ask.needs[record.model]
  local resource = resources and first_with_room(ask, record.lane, resources)
  if resources and not resource then
    redis.call('ZREM', suspects_key(root), name)
    park_for_room(root, account, id, record, resources, ask)
    return nil
  end
  local suspects_max = suspects_max_in(group, record)
  if not can_join(group, suspects_max) or is_at_running_max(root, account, record.lane) then return nil end
  redis.call('ZREM', suspects_key(root), name)
  redis.call('ZREM', deferred_key(root), name)
  remove_ready(root, account, id, record.lane)
  charge_stride(root, account, record.lane)
  return hand_out(root, account, id, record, suspects_max, resource, ask, now)
end

local function take_each(root, names, ask, batch, claimed, now)
  for _, name in ipairs(names) do
    if #claimed >= ask.count then break end
    local taken = damage.run_guarded(root, name, take_suspect, ask, group, batch, now)
    if taken then
      table.insert(claimed, taken)
      if taken[3] == 'batch' then batch = batch - 1 end
    end
  end
  return batch
end

-- Suspects go first, they have waited longest. Of many, those in front are looked at, and as many of those behind them,
-- each time others: what cannot run now hides nothing. Returns how many batches the worker may still take.
local function take_suspects(root, names, ask, claimed, now)
  local remaining = #names < SUSPECTS_TRIED and 0 or redis.call('ZCARD', suspects_key(root)) - #names
  local batch = take_each(root, names, ask, ask.batch, claimed, now)
  if remaining <= 0 or #claimed >= ask.count then return batch end
  local first = redis.call('ZCARD', suspects_key(root)) - remaining
  first = math.max(0, first) + now_us() % math.ceil(remaining / SUSPECTS_TRIED) * SUSPECTS_TRIED
  local others = redis.call('ZRANGE', suspects_key(root), int(first), int(first + SUSPECTS_TRIED - 1))
  return take_each(root, others, ask, batch, claimed, now)
end

local function is_ready(root, lane) return redis.call('EXISTS', lane_key(root, lane)) == 1 end

-- Take one from the first of these lanes that has one. Returns the lane, and what a worker is handed.
local function take_from(root, lanes, ask, parked_queues, group, now)
  for _, lane in ipairs(lanes) do
    local account, id, record, resource = pop(root, lane, ask, parked_queues)
    if account then
      if not id then return lane, nil end
      local suspects_max = suspects_max_in(group, record)
      if can_join(group, suspects_max) then
        return lane, hand_out(root, account, id, record, suspects_max, resource, ask, now)
      end
      join_suspects(root, account, id, record)
      return lane, nil
    end
  end
end

-- After an error: what is damaged is set aside, or an account's line made anew. Any other error is raised again.
local function set_aside_failed(root, problem)
  if current_id then return damage.requeue_or_set_aside(root, current_account, current_id, problem) end
  local ready = current_account and ready_key(root, current_account, current_lane)
  if not ready or redis.pcall('ZCARD', ready) ~= 0 and not damage.is_wrong_type('ZCARD', ready) then error(problem, 0) end
  damage.rebuild_ready(root, current_account, current_lane)
end

local function take_next(root, order, ask, parked_queues, group, now)
  current_account, current_id, current_lane = nil, nil, nil
  local is_done, lane, taken = pcall(take_from, root, order, ask, parked_queues, group, now)
  if is_done then return lane, taken end
  set_aside_failed(root, lane)
  return current_lane, nil
end

local INTERACTIVE_FIRST, INTERACTIVE_ONLY, BATCH_FIRST = LANES, {'interactive'}, {'batch', 'interactive'}

-- How often a batch has looked on since one of its own was taken; nil when none waits.
local function claims_since_batch(root, ask, parked_queues)
  local waits = is_ready(root, 'batch') or parked_queues[1] and first_parked_queue(root, 'batch', ask, parked_queues)
  return waits and tonumber(redis.call('HGET', clocks_key(root), 'looked_on') or 0) or nil
end

-- Where nothing is left no ring is due. Returns whether this worker may take more.
local function clear_wakeups(root, ask, parked_queues, batch, has_suspects_left, is_batch_empty)
  local is_more, wakeup_keys = has_suspects_left, {}
  for _, lane in ipairs(LANES) do
    local can_take_lane = lane == 'interactive' or batch > 0
    if not (lane == 'batch' and is_batch_empty) and is_ready(root, lane) then
      is_more = is_more or can_take_lane
    elseif not has_suspects_left then
      table.insert(wakeup_keys, wakeup_key(root, lane))
      for wire = LANE_WAKEUP_WIRE + 1, ask.wire do table.insert(wakeup_keys, wakeup_for_key(root, lane, WIRE_WAKEUP .. wire)) end
    end
    is_more = is_more or can_take_lane and parked_queues[1] and first_parked_queue(root, lane, ask, parked_queues)
  end
  if wakeup_keys[1] then redis.call('DEL', unpack(wakeup_keys)) end
  return is_more
end

local function claim(root, ask)
  ask.room = ask.room or {}
  if ask.unacknowledged then
    damage.check_shared_keys(root)
    requeue_unacknowledged(root, ask)
  end
  local now, claimed, ended = now_ms(), {}, 0
  -- Mostly there are neither parked turns nor suspects, and one look tells that.
  local is_plain = redis.call('EXISTS', parked_queues_key(root), suspects_key(root)) == 0
  if not is_plain then damage.check_shared_keys(root) end
  local parked_queues = is_plain and {} or find_open_queues(root, ask)
  group = {held = ask.suspects or 0, suspects_max = ask.suspects_max or math.huge}
  local suspects = is_plain and {} or redis.call('ZRANGE', suspects_key(root), 0, SUSPECTS_TRIED - 1)
  group.is_stormy = #suspects > 0 and is_storm(root, now)
  local batch = take_suspects(root, suspects, ask, claimed, now)
  local since_batch_before = claims_since_batch(root, ask, parked_queues)
  local since_batch = since_batch_before
  while #claimed < ask.count and ended < ENDED_MAX do
    local order = INTERACTIVE_FIRST
    if batch <= 0 or not since_batch_before then -- where no batch waits, none is looked for
      order = INTERACTIVE_ONLY
    elseif since_batch and since_batch >= BATCH_EVERY - 1 then
      order = BATCH_FIRST
    end
    local lane, taken = take_next(root, order, ask, parked_queues, group, now)
    if not lane then break end
    if taken then
      if lane == 'batch' then batch = batch - 1 end
      if since_batch then since_batch = lane == 'batch' and 0 or since_batch + 1 end
      table.insert(claimed, taken)
    else
      ended = ended + 1
    end
  end
  if since_batch ~= since_batch_before then redis.call('HSET', clocks_key(root), 'looked_on', int(since_batch)) end
  if #claimed > 0 then damage.note_claiming_worker(root, ask.worker) end
  -- Who cannot take a suspect leaves its ring to others.
  local has_suspects_left = #suspects > 0 and redis.call('EXISTS', suspects_key(root)) == 1
  -- Only what ends lets the next turn of a session in.
  local is_more = clear_wakeups(root, ask, parked_queues, batch, has_suspects_left, is_plain and not since_batch_before and ended == 0)
  local is_enough = #claimed == ask.count or ended == ENDED_MAX
  local is_left_to_others = has_suspects_left and ask.suspects_max == 0
  return {now, (is_more and is_enough or is_left_to_others) and 1 or 0, unpack(claimed)}
end

register('claim', claim)
