-- What the functions share beside the preamble: who shares a lane, and the lines of parked turns.
--
-- A turn that a worker can do nothing for now is parked: it waits for a resource, a provider's key or room at it
-- (named by the provider), a circuit that cools (provider|model), or what one of several of these brings. It stands
-- among the deferred with the time to look again, and in the line of each resource. `deferred` decides whether it
-- waits, so that a process that knows no lines brings it back, too; a line only lets it go earlier, and what it
-- holds beyond that is removed by whoever finds it.

-- How many accounts of this one's weight those are, itself among them, that share a lane: who has twice the weight
-- counts as two. Of many a few are looked at, from the middle of the line. Tells, too, whether it is in its lane itself.
local function count_lane_accounts(root, account, lane, stride)
  local seen_max = 6
  local key, weighed = lane_key(root, lane), 0
  local count = redis.call('ZCARD', key)
  local first = math.max(0, math.floor((count - seen_max) / 2))
  local seen = redis.call('ZRANGE', key, int(first), int(first + seen_max - 1))
  for _, each in ipairs(seen) do weighed = weighed + stride / load_stride(root, each) end
  local lane_accounts = count > 0 and math.ceil(count * weighed / #seen) or 0
  if redis.call('ZSCORE', key, account) then return lane_accounts, true end
  return lane_accounts + 1, false
end

-- How long ago an attempt at a generation began, in ms; -1 where none runs.
local function ms_since_start(root, account, id, now)
  local started, worker = unpack(redis.pcall('HMGET', generation_key(root, account, id), 'started', 'worker'))
  return worker and tonumber(started) and math.max(0, now - tonumber(started)) or -1
end

-- Where an account stands in virtual time, in its lane or outside of it.
local function virtual_time(root, account, lane)
  local time = redis.call('ZSCORE', lane_key(root, lane), account)
  if time then return time end
  return joining_time(root, lane, unpack(redis.call('HMGET', account_totals_key(root, account), 'left_' .. lane, 'lane_stride')))
end

local function parked_queue_name(lane, resource) return lane .. ':' .. resource end

-- A line of another type can be dropped: what stood in it is deferred, too.
function damage.add_to_parked_queue(key, time, account)
  local added = redis.pcall('ZADD', key, 'NX', time, account)
  if type(added) == 'number' then return added end
  redis.call('DEL', key)
  return redis.call('ZADD', key, time, account)
end

local function leave_parked_queue(root, account, lane, resource)
  if redis.call('EXISTS', parked_turns_key(root, account, lane, resource)) == 1 then return end
  redis.pcall('ZREM', parked_key(root, lane, resource), account)
  if redis.call('EXISTS', parked_key(root, lane, resource)) == 1 then return end
  redis.pcall('SREM', parked_queues_key(root), parked_queue_name(lane, resource))
  redis.call('DEL', wakeup_for_key(root, lane, resource))
end

-- The record says after which attempt it was parked: an older process leaves that behind when it claims it.
local function is_parked(root, account, id, record)
  local attempt = record.parked and string.match(record.parked, '^%d+')
  if not attempt or tonumber(attempt) ~= tonumber(record.attempt) then return false end
  return redis.call('ZSCORE', deferred_key(root), member(account, id)) and true or false
end

function unpark(root, account, id, record)
  if not record.parked then return end
  for resource in string.gmatch(record.parked, ' (%S+)') do
    local turns = parked_turns_key(root, account, record.lane, resource)
    if type(redis.pcall('ZREM', turns, id)) ~= 'number' then redis.call('DEL', turns) end
    leave_parked_queue(root, account, record.lane, resource)
  end
  redis.call('HDEL', generation_key(root, account, id), 'parked')
end

-- `resources` are one or more names between blanks. In each line an account keeps its place in virtual time.
local function park(root, account, id, record, resources, again)
  unpark(root, account, id, record)
  redis.call('ZADD', deferred_key(root), int(again), member(account, id))
  redis.call('HSET', generation_key(root, account, id), 'parked', record.attempt .. ' ' .. resources)
  local time = virtual_time(root, account, record.lane)
  for resource in string.gmatch(resources, '%S+') do
    redis.call('ZADD', parked_turns_key(root, account, record.lane, resource), record.number, id)
    if damage.add_to_parked_queue(parked_key(root, record.lane, resource), time, account) == 1 then
      redis.call('SADD', parked_queues_key(root), parked_queue_name(record.lane, resource))
    end
  end
end

-- An account's oldest turn in a line that `fits`. What is there and not parked any more, an older process has brought
-- back.
local function first_parked(root, account, parked_queue, is_wanted)
  local tried_max = 64
  local turns = parked_turns_key(root, account, parked_queue.lane, parked_queue.resource)
  for _, id in ipairs(redis.call('ZRANGE', turns, 0, tried_max - 1)) do
    local record = load_generation(root, account, id)
    if not record or not is_parked(root, account, id, record) then
      redis.call('ZREM', turns, id)
    elseif is_wanted(record) then
      return id, record
    end
  end
  leave_parked_queue(root, account, parked_queue.lane, parked_queue.resource)
end

-- Leaves the lanes of which it runs as many as it may.
local function leave_full_lanes(root, account, running)
  for _, lane in ipairs(LANES) do
    local at = is_running_max_reached(running, lane) and redis.call('ZSCORE', lane_key(root, lane), account)
    if at then leave_lane(root, account, lane, at) end
  end
end
