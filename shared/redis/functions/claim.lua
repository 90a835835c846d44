-- claim: give a worker up to `count` ready generations, each with a lease and a fencing token.
-- ASK      worker, wire (the newest it can read), count, batch (at most so many of them from the batch lane), lease_ms,
--          keep, claim (its number among the worker's claims); if any: unacknowledged (numbers of earlier claims that
--          got no reply), room = {resource = how many turns may start with it now} for what the worker has, and for
--          circuits where it differs from their provider's; batch_room, where batches have room of their own;
--          needs = {model = resources between blanks, one of which each of its turns takes}, where that is limited or
--          only another worker has it; recheck_ms (after which parked turns are tried again), suspects (how many the
--          worker has), suspects_max (how many it may have; nil: any number)
-- RETURNS  {now ms, 1 if more may be ready, {account, id, lane, attempt, turn, hold, deadline ms, accepted ms, retries,
--          calls, company (0: no suspect), the resource whose room it uses ('' for none), submission, user message,
--          the session's system prompt, its companion; where rounds have finished, `kept` of the record}...}; lists,
--          since a map of 16 names costs 4 % more a claim
-- ATOMIC   because two workers must never get the same generation under the same token, and a generation that left the
--          queue without a lease would belong to nobody.
-- A claim is never retried: its reply may be lost after it took turns. The worker's next claim lists unacknowledged
-- ones, whose turns are queued again first (unacknowledged.lua).
--
-- Lanes: interactive turns go first, but of BATCH_EVERY claims made while a batch waits, one is a batch, so batches
-- never starve. `looked_on` in `clocks` counts the claims since the last batch. Example: a worker asks for 8, a batch
-- waits and looked_on is 15: four interactive turns follow (19), then a batch (0), then three interactive turns (3).
-- Parked turns: a ready turn whose resources this worker lacks, or which have no room, is parked, and where another
-- worker has the resource, that worker is woken. Parked turns whose resource has room are taken like those of the
-- lanes, in the same virtual time. Later attempts: an attempt after the first starts by dropping the text so far,
-- except what finished rounds have shown (rounds.lua), with a reset event for followers. The stream keeps the events of
-- the last ATTEMPTS_STREAMED attempts, since a reset makes all before it useless, except those of finished rounds.
-- Wakeups: where nothing is ready, the list of wakeups is deleted, so that no worker wakes for nothing. That of newer
-- wires is left to a claim that took such a turn, or none.

local BATCH_EVERY, ATTEMPTS_STREAMED = 20, 64
-- How many accounts of a lane, or of a queue of parked turns, and how many suspects one call tries.
local ACCOUNTS_TRIED, SUSPECTS_TRIED = 64, 32
-- Expired turns that a claim meets are ended on the way, at most so many in one call: the server serves nobody
-- meanwhile.
local ENDED_MAX = 64

-- Leases a turn whose record is sound. Returns what the worker gets; nil if the turn cannot be claimed.
local function lease_turn(root, account, id, record, suspects_max, resource, ask, now)
  -- A turn that cannot be claimed must not block those that can.
  if not TRANSITIONS[record.stage].routing then return nil end
  if tonumber(record.deadline) <= now then
    end_without_worker(root, account, id, record, 'failed', EXPIRED, ask.keep)
    return nil
  end
  -- Everything that may be damaged is read before the first write.
  local submission = redis.call('GET', submission_key(root, account, id))
  local message = redis.call('HGET', turns_chunk_key(root, account, record.session, record.turn), record.turn .. ':u')
  local session = has_no_session(id, record) and {false, false}
    or redis.call('HMGET', session_key(root, account, record.session), 'system', 'companion')
  if not submission or not message then error('DAMAGED what was asked', 0) end
  local kept = record.kept and rounds.load_start(root, account, id, record)
  unpark(root, account, id, record)
  redis.call('ZADD', leases_key(root), int(now + ask.lease_ms), member(account, id))
  local attempt = tonumber(record.attempt) + 1
  local is_retry = attempt > 1
  redis.call('HSET', generation_key(root, account, id), 'stage', 'routing', 'attempt', int(attempt),
    'worker', ask.worker, 'claim', int(ask.claim), 'started', int(now), 'seq', is_retry and '1' or '0', 'progress', '0')
  local running = record.running or load_running(root, account)
  running[record.lane == 'batch' and 2 or 1] =
    redis.call('HINCRBY', account_totals_key(root, account), 'running_' .. record.lane, '1')
  leave_full_lanes(root, account, running)
  if record.finer_stage then stages.leave(root, account, id, record) end
  if kept then
    session[3] = record.kept
    rounds.start(root, account, id, attempt, kept)
    rounds.trim_events(root, account, id, attempt - ATTEMPTS_STREAMED, kept)
  elseif is_retry then
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

-- The account, generation and lane that are being handled: if that fails, they may be damaged.
local current_account, current_id, current_lane

-- The suspects in the worker, during this call: {held, suspects_max, is_stormy}; and the lanes that the last try to
-- take a turn found empty (`empty_lanes`).
local group

-- Returns the oldest ready turn of the account with the least virtual time. If this worker cannot read its wire, the
-- turn waits for a worker that can, and the next account is tried. Returns false at the lane's end, nil where more
-- accounts follow.
local function find_ready_from(root, lane, wire, first)
  for rank = first, first + ACCOUNTS_TRIED - 1 do
    local account, time = unpack(redis.call('ZRANGE', lane_key(root, lane), int(rank), int(rank), 'WITHSCORES'))
    if not account then
      group.empty_lanes[lane] = rank == 0
      return false
    end
    current_account, current_id, current_lane = account, nil, lane
    local id, next_id = unpack(redis.call('ZRANGE', ready_key(root, account, lane), '0', '1'))
    current_id = id
    local record = load_generation(root, account, id)
    if not record or tonumber(record.wire) <= wire then return account, time, id, record, next_id end
  end
end

-- If all of the first accounts wait for other workers, as many of those behind them are tried, at a random offset.
local function find_first_ready(root, lane, wire)
  local account, time, id, record, next_id = find_ready_from(root, lane, wire, 0)
  if account ~= nil then return account, time, id, record, next_id end
  local remaining_count = redis.call('ZCARD', lane_key(root, lane)) - ACCOUNTS_TRIED
  if remaining_count <= 0 then return nil end
  return find_ready_from(root, lane, wire, ACCOUNTS_TRIED + now_us() % remaining_count)
end

-- Moves the lane's clock to the virtual time of a claim, never back.
local function advance_clock(root, lane, time)
  local key = clocks_key(root)
  if time > tonumber(redis.call('HGET', key, lane) or 0) then redis.call('HSET', key, lane, int(time)) end
end

-- Nothing is ever added to it: a claim of a worker without limits makes no table for what it does not have.
local NONE = {}

-- Returns the table that limits a resource in this lane: that of batches, where they have room of their own.
local function room_table(ask, lane, name)
  return lane == 'batch' and ask.batch_room and ask.batch_room[name] and ask.batch_room or ask.room or NONE
end

local function count_room(ask, lane, resource)
  local provider = string.match(resource, '^[^|]+')
  return room_table(ask, lane, resource)[resource] or room_table(ask, lane, provider)[provider] or 0
end

-- Returns the first of some resources that has room.
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

-- Parks a turn that cannot start here now, and wakes a worker for each resource that this one does not have.
local function park_for_room(root, account, id, record, resources, ask)
  remove_ready(root, account, id, record.lane)
  park(root, account, id, record, resources, now_ms() + ask.recheck_ms)
  for resource in string.gmatch(resources, '%S+') do
    local room = ask.room or NONE
    local has_resource = room[resource] or room[string.match(resource, '^[^|]+')]
    if not has_resource then push_wakeup(wakeup_for_key(root, record.lane, resource)) end
  end
end

local function find_open_queues(root, ask)
  local parked_queues = {}
  for _, name in ipairs(ask.room and next(ask.room) and redis.call('SMEMBERS', parked_queues_key(root)) or NONE) do
    local lane, resource = split(name)
    local parked = parked_key(root, lane, resource)
    if damage.is_wrong_type('ZCARD', parked) then redis.call('DEL', parked) end
    if count_room(ask, lane, resource) > 0 then table.insert(parked_queues, {lane = lane, resource = resource}) end
  end
  return parked_queues
end

-- Returns whether this worker may run a parked turn now. Others stay parked, or they would be taken out and parked
-- again each time.
local function can_run(ask, record)
  return tonumber(record.wire) <= ask.wire and can_join(group, suspects_max_in(group, record))
end

-- Returns the turn that an account in a queue of parked turns gives next, of those that this worker may run.
local function next_parked(root, account, parked_queue, ask)
  if is_at_running_max(root, account, parked_queue.lane) then return nil end
  local id, record = first_parked(root, account, parked_queue, function(each) return can_run(ask, each) end)
  if id then return id, record, load_stride(root, account) end
end

-- Finds the turn that a queue of parked turns gives next. However long it was parked, its account is at most
-- CLAIMS_AHEAD claims before the lane's clock, like one that enters the lane.
local function load_next(root, parked_queue, ask)
  parked_queue.is_loaded, parked_queue.id = true, nil
  local clock = tonumber(redis.call('HGET', clocks_key(root), parked_queue.lane) or 0)
  local parked = parked_key(root, parked_queue.lane, parked_queue.resource)
  local accounts = redis.call('ZRANGE', parked, 0, ACCOUNTS_TRIED - 1, 'WITHSCORES')
  for i = 1, #accounts, 2 do
    local account = accounts[i]
    -- A damaged turn is found by the reap that brings it back: everything parked is in `deferred`, too.
    local is_done, id, record, stride = pcall(next_parked, root, account, parked_queue, ask)
    if is_done and id then
      parked_queue.account, parked_queue.id, parked_queue.record = account, id, record
      parked_queue.time = math.max(clock - CLAIMS_AHEAD * stride, tonumber(accounts[i + 1]))
      return
    end
    if not is_done then damage.drop_parked_turns(root, account, parked_queue) end
  end
end

-- Returns the queue of parked turns of a lane whose next turn comes first. A turn may be in several queues, and may
-- have been taken from another one since.
local function first_parked_queue(root, lane, ask, parked_queues)
  local first
  for _, parked_queue in ipairs(parked_queues) do
    if parked_queue.lane == lane and count_room(ask, lane, parked_queue.resource) > 0 then
      local id, record = parked_queue.id, parked_queue.record
      local is_loaded = parked_queue.is_loaded
        and (not id or can_run(ask, record) and is_parked(root, parked_queue.account, id, record))
      if not is_loaded then load_next(root, parked_queue, ask) end
      if parked_queue.id and (not first or parked_queue.time < first.time) then first = parked_queue end
    end
  end
  return first
end

local function pop_parked(root, parked_queue)
  current_account, current_id, current_lane = parked_queue.account, parked_queue.id, parked_queue.lane
  damage.check(parked_queue.record)
  local account, lane = parked_queue.account, parked_queue.lane
  local time_after = parked_queue.time + load_stride(root, account)
  redis.call('ZREM', deferred_key(root), member(account, parked_queue.id))
  unpark(root, account, parked_queue.id, parked_queue.record)
  parked_queue.record.parked, parked_queue.is_loaded = nil, false
  redis.call('ZADD', parked_key(root, lane, parked_queue.resource), 'XX', int(time_after), account)
  advance_clock(root, lane, parked_queue.time)
  if redis.call('ZSCORE', lane_key(root, lane), account) then
    redis.call('ZINCRBY', lane_key(root, lane), load_stride(root, account), account)
  else
    leave_lane(root, account, lane, math.max(time_after, tonumber(virtual_time(root, account, lane))))
  end
  return account, parked_queue.id, parked_queue.record, parked_queue.resource
end

-- Takes the next turn of a lane, ready or parked, and adds the stride to its account's virtual time. Returns no id and
-- no record for a turn that it parked.
local function pop(root, lane, ask, parked_queues)
  local account, time, id, record, next_id = find_first_ready(root, lane, ask.wire)
  local parked_queue = parked_queues[1] and first_parked_queue(root, lane, ask, parked_queues)
  if parked_queue and (not account or parked_queue.time <= tonumber(time)) then
    return pop_parked(root, parked_queue)
  end
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
  local stride = tonumber(record.running[4]) or STRIDE
  if next_id then
    redis.call('ZINCRBY', lane_key(root, lane), int(stride), account)
  else
    leave_lane(root, account, lane, time + stride)
  end
  return account, id, record, resource
end

-- Leases a turn. Only then it uses room and joins the worker's suspects; an expired turn does neither.
local function hand_out(root, account, id, record, suspects_max, resource, ask, now)
  local taken = lease_turn(root, account, id, record, suspects_max, resource, ask, now)
  if taken then
    if tonumber(record.wire) > LANE_WAKEUP_WIRE then group.has_newer_wire = true end
    if resource then use_room(ask, record.lane, resource) end
    join_group(root, group, account, id, record, suspects_max)
  end
  return taken
end

-- Claims a suspect if it may run in this worker now; parks it if its resource has no room. Returns what the worker
-- gets.
local function take_suspect(root, account, id, ask, batch, now)
  local record, name = load_generation(root, account, id), member(account, id)
  damage.check(record)
  -- A worker that knows no suspects may have claimed it already.
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
    local taken = damage.run_guarded(root, name, take_suspect, ask, batch, now)
    if taken then
      table.insert(claimed, taken)
      if taken[3] == 'batch' then batch = batch - 1 end
    end
  end
  return batch
end

-- Claims suspects before anything else, since they have waited longest. Of many, those in front are tried, and as many
-- of the rest, at a random offset, so that those which cannot run now hide no others. Returns how many batches the
-- worker may still take.
local function take_suspects(root, names, ask, claimed, now)
  local remaining_count = #names < SUSPECTS_TRIED and 0 or redis.call('ZCARD', suspects_key(root)) - #names
  local batch = take_each(root, names, ask, ask.batch, claimed, now)
  if remaining_count <= 0 or #claimed >= ask.count then return batch end
  local first = redis.call('ZCARD', suspects_key(root)) - remaining_count
  first = math.max(0, first) + now_us() % math.ceil(remaining_count / SUSPECTS_TRIED) * SUSPECTS_TRIED
  local random_suspects = redis.call('ZRANGE', suspects_key(root), int(first), int(first + SUSPECTS_TRIED - 1))
  return take_each(root, random_suspects, ask, batch, claimed, now)
end

local function is_ready(root, lane) return redis.call('EXISTS', lane_key(root, lane)) == 1 end

-- Claims one turn from the first of these lanes that has any. Returns the lane, and what the worker gets.
local function take_from(root, lanes, ask, parked_queues, now)
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

-- Called after an error: sets a damaged generation aside, or rebuilds an account's ready turns. Raises any other error
-- again.
local function set_aside_failed(root, problem)
  if current_id then return damage.requeue_or_set_aside(root, current_account, current_id, problem) end
  local ready = current_account and ready_key(root, current_account, current_lane)
  local is_rebuildable = ready and (redis.pcall('ZCARD', ready) == 0 or damage.is_wrong_type('ZCARD', ready))
  if not is_rebuildable then error(problem, 0) end
  damage.rebuild_ready(root, current_account, current_lane)
end

local function take_next(root, order, ask, parked_queues, now)
  current_account, current_id, current_lane = nil, nil, nil
  group.empty_lanes = {}
  local is_done, lane, taken = pcall(take_from, root, order, ask, parked_queues, now)
  if is_done then return lane, taken end
  set_aside_failed(root, lane)
  return current_lane, nil
end

local INTERACTIVE_ONLY, BATCH_FIRST = {'interactive'}, {'batch', 'interactive'}

-- Returns how many claims were made since the last batch while one waited; nil when none waits.
local function claims_since_batch(root, ask, parked_queues)
  local is_batch_waiting = is_ready(root, 'batch')
    or parked_queues[1] and first_parked_queue(root, 'batch', ask, parked_queues)
  return is_batch_waiting and tonumber(redis.call('HGET', clocks_key(root), 'looked_on') or 0) or nil
end

-- The keys of a lane's wakeups, by wire; that of plain turns stands at LANE_WAKEUP_WIRE. They are made once, since
-- making them takes a sixth of a claim that finds nothing.
local known_wakeups = {}
function known_wakeups.of(root, lane, wire_max)
  local plain = wakeup_key(root, lane)
  local wakeups = known_wakeups[plain] or {[LANE_WAKEUP_WIRE] = plain}
  known_wakeups[plain] = wakeups
  for wire = LANE_WAKEUP_WIRE + 1, wire_max do
    wakeups[wire] = wakeups[wire] or wakeup_for_key(root, lane, WIRE_WAKEUP .. wire)
  end
  return wakeups
end

-- Deletes the wakeups of lanes in which nothing is left, of plain turns or of those up to `wire_max`. Returns whether
-- this worker may take more. Lanes that are `known_empty` need not be checked again.
local function clear_wakeups(root, ask, parked_queues, batch, has_suspects_left, known_empty, wire_max)
  local is_more, wakeup_keys = has_suspects_left, {}
  for _, lane in ipairs(LANES) do
    local can_take_lane = lane == 'interactive' or batch > 0
    if not known_empty[lane] and is_ready(root, lane) then
      is_more = is_more or can_take_lane
    elseif not has_suspects_left then
      local wakeups = known_wakeups.of(root, lane, wire_max)
      for wire = LANE_WAKEUP_WIRE, wire_max do wakeup_keys[#wakeup_keys + 1] = wakeups[wire] end
    end
    is_more = is_more or can_take_lane and parked_queues[1] and first_parked_queue(root, lane, ask, parked_queues)
  end
  if wakeup_keys[1] then redis.call('DEL', unpack(wakeup_keys)) end
  return is_more
end

local function claim(root, ask)
  if ask.unacknowledged then
    damage.check_shared_keys(root)
    requeue_unacknowledged(root, ask)
  end
  local now, claimed, ended = now_ms(), {}, 0
  -- Mostly there are neither parked turns nor suspects, and one EXISTS tells both.
  local is_plain = redis.call('EXISTS', parked_queues_key(root), suspects_key(root)) == 0
  if not is_plain then damage.check_shared_keys(root) end
  local parked_queues = is_plain and NONE or find_open_queues(root, ask)
  local suspects = is_plain and NONE or redis.call('ZRANGE', suspects_key(root), 0, SUSPECTS_TRIED - 1)
  group = {
    held = ask.suspects or 0, suspects_max = ask.suspects_max or math.huge,
    is_stormy = #suspects > 0 and is_storm(root, now), has_newer_wire = false, empty_lanes = NONE,
  }
  local batch = take_suspects(root, suspects, ask, claimed, now)
  local since_batch_before = claims_since_batch(root, ask, parked_queues)
  local since_batch, known_empty = since_batch_before, {}
  while #claimed < ask.count and ended < ENDED_MAX do
    local order = LANES
    if batch <= 0 or not since_batch_before then -- no batch waits, or none may be taken
      order = INTERACTIVE_ONLY
    elseif since_batch and since_batch >= BATCH_EVERY - 1 then
      order = BATCH_FIRST
    end
    local lane, taken = take_next(root, order, ask, parked_queues, now)
    if not lane then
      known_empty = group.empty_lanes
      break
    end
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
  -- A worker that cannot take a suspect leaves its wakeup to others.
  local has_suspects_left = #suspects > 0 and redis.call('EXISTS', suspects_key(root)) == 1
  -- Ending an expired turn may make the next turn of its session ready, so then the batch lane is checked again.
  if is_plain and not since_batch_before and ended == 0 then known_empty.batch = true end
  local wire_max = (#claimed == 0 or group.has_newer_wire) and ask.wire or LANE_WAKEUP_WIRE
  local is_more = clear_wakeups(root, ask, parked_queues, batch, has_suspects_left, known_empty, wire_max)
  local is_full = #claimed == ask.count or ended == ENDED_MAX
  local is_left_to_others = has_suspects_left and ask.suspects_max == 0
  return {now, (is_more and is_full or is_left_to_others) and 1 or 0, unpack(claimed)}
end

register('claim', claim)
