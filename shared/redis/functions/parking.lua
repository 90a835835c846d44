-- Shared: how many accounts share a lane, and queues of parked turns.
--
-- A turn that a worker can do nothing for now is parked. It waits for a resource: a provider's key or room at the
-- provider (named by the provider), or a circuit that is open (provider|model); or for one of several of these. It is
-- in the sorted set `deferred` with the time at which it is tried again anyway, and in one queue of parked turns for
-- each resource, from which a claim may take it earlier. Example: a turn for model m of providers a and b, both at
-- their limit, is in `parked:interactive:a` and `parked:interactive:b`; the first claim with room at either takes it
-- from both.
--
-- `deferred` alone decides whether a turn waits, so that an older process, which knows no queues of parked turns, also
-- brings it back. What such a process leaves in a queue is removed by whoever finds it there.

-- Returns how many accounts share a lane, this one among them, in accounts of its own weight: one of twice the weight
-- counts as two. Of a long lane six accounts from its middle are read and stand for the rest. Example: with stride
-- 1000, 40 accounts of which the six read have stride 500 count as 80. Returns also whether the account is in the lane
-- itself.
local function count_lane_accounts(root, account, lane, stride)
  local sampled_max = 6
  local key, weight_sum = lane_key(root, lane), 0
  local count = redis.call('ZCARD', key)
  local first = math.max(0, math.floor((count - sampled_max) / 2))
  local sampled = redis.call('ZRANGE', key, int(first), int(first + sampled_max - 1))
  for _, each in ipairs(sampled) do weight_sum = weight_sum + stride / load_stride(root, each) end
  local lane_accounts = count > 0 and math.ceil(count * weight_sum / #sampled) or 0
  if redis.call('ZSCORE', key, account) then return lane_accounts, true end
  return lane_accounts + 1, false
end

-- Returns how many ms ago the current attempt of a generation began; -1 where none runs.
local function ms_since_start(root, account, id, now)
  local started, worker = unpack(redis.pcall('HMGET', generation_key(root, account, id), 'started', 'worker'))
  return worker and tonumber(started) and math.max(0, now - tonumber(started)) or -1
end

-- Returns an account's virtual time, in its lane or outside of it.
local function virtual_time(root, account, lane)
  local time = redis.call('ZSCORE', lane_key(root, lane), account)
  if time then return time end
  local totals = redis.call('HMGET', account_totals_key(root, account), 'left_' .. lane, 'lane_stride')
  return joining_time(root, lane, unpack(totals))
end

local function parked_queue_name(lane, resource) return lane .. ':' .. resource end

-- A key of another type is dropped: its turns are in `deferred`, too.
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

-- The record holds the attempt after which it was parked. A process that knows no parked turns leaves that field behind
-- when it claims the turn, so a later attempt shows that it is not parked any more.
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

-- Parks a turn: `resources` are one or more names between blanks. In each queue the account keeps its virtual time.
local function park(root, account, id, record, resources, retry_at)
  unpark(root, account, id, record)
  redis.call('ZADD', deferred_key(root), int(retry_at), member(account, id))
  redis.call('HSET', generation_key(root, account, id), 'parked', record.attempt .. ' ' .. resources)
  local time = virtual_time(root, account, record.lane)
  for resource in string.gmatch(resources, '%S+') do
    redis.call('ZADD', parked_turns_key(root, account, record.lane, resource), record.number, id)
    if damage.add_to_parked_queue(parked_key(root, record.lane, resource), time, account) == 1 then
      redis.call('SADD', parked_queues_key(root), parked_queue_name(record.lane, resource))
    end
  end
end

-- Returns an account's oldest turn in a queue that is wanted. A turn in the queue that is not parked any more was
-- brought back by an older process, and is removed.
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

-- Takes the account out of the lanes in which it runs as many as it may.
local function leave_full_lanes(root, account, running)
  for _, lane in ipairs(LANES) do
    local at = is_running_max_reached(running, lane) and redis.call('ZSCORE', lane_key(root, lane), account)
    if at then leave_lane(root, account, lane, at) end
  end
end
