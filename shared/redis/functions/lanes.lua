-- What the functions share: lanes in virtual time, and the wakeups of workers.

-- Persons first.
local LANES = {'interactive', 'batch'}

-- A bell of another type is replaced: there is nothing in it to lose.
-- One ring wakes one worker that waits; so many wake all. A bell that nobody waits at is cut back now and then, not at
-- each ring.
local function push_wakeup(bell)
  local rings_max, cut_at = 128, 144
  local length = redis.pcall('LPUSH', bell, '1')
  if type(length) ~= 'number' then
    redis.call('DEL', bell)
    redis.call('LPUSH', bell, '1')
  elseif length >= cut_at then
    redis.call('LTRIM', bell, 0, rings_max - 1)
  end
end

-- A wire that is newer than LANE_BELL_WIRE rings a bell of its own: workers that cannot read it never wait there.
local function wake_worker(root, lane, wire)
  local is_newer = wire and tonumber(wire) > LANE_WAKEUP_WIRE
  push_wakeup(is_newer and wakeup_for_key(root, lane, WIRE_WAKEUP .. wire) or wakeup_key(root, lane))
end

-- Of what an account may run at once; one at least.
local BATCH_SHARE = 0.75

-- How many an account runs: of each lane, and at most in all. Then its stride, if that is known.
local function load_running(root, account)
  return redis.call('HMGET', account_totals_key(root, account), 'running_interactive', 'running_batch', 'running_most',
    'lane_stride')
end

-- Whether that is as many as it may of a lane: its batch leaves room for the person.
local function is_running_max_reached(running, lane)
  if not running[3] then return false end
  local running_max, batch = tonumber(running[3]), tonumber(running[2] or 0)
  if lane == 'batch' and batch >= math.max(1, math.floor(running_max * BATCH_SHARE)) then return true end
  return tonumber(running[1] or 0) + batch >= running_max
end

local function is_at_running_max(root, account, lane) return is_running_max_reached(load_running(root, account), lane) end

-- Of an account that nothing has been accepted for since strides are told.
local STRIDE_DEFAULT = 1000
local CLAIMS_AHEAD = 8

local function load_stride(root, account)
  return tonumber(redis.call('HGET', account_totals_key(root, account), 'lane_stride')) or STRIDE_DEFAULT
end

-- Virtual time: an account joins its lane a little before the lane's clock, or where it left if that is later.
-- Who asked for nothing of late so has a few claims at once, and who comes and goes gets no more than a share.
-- One that runs as many as it may stays outside until one of them has ended.
local function joining_time(root, lane, left, stride)
  local clock = tonumber(redis.call('HGET', clocks_key(root), lane) or 0)
  local early = clock - CLAIMS_AHEAD * tonumber(stride or STRIDE_DEFAULT)
  return int(math.max(early, tonumber(left or 0)))
end

-- Whether the account is in its lane, let in now if it was not.
local function ensure_in_lane(root, account, lane)
  local key = lane_key(root, lane)
  if redis.call('ZSCORE', key, account) then return true end
  local totals = redis.call('HMGET', account_totals_key(root, account), 'running_interactive', 'running_batch', 'running_most',
    'left_' .. lane, 'lane_stride')
  if is_running_max_reached(totals, lane) then return false end
  redis.call('ZADD', key, joining_time(root, lane, totals[4], totals[5]), account)
  return true, true
end

-- Returns 1 for an account that was not in its lane and is now, else 0.
local function join_lane(root, account, lane, wire)
  local _, is_added = ensure_in_lane(root, account, lane)
  if not is_added then return 0 end
  wake_worker(root, lane, wire)
  return 1
end

local function make_ready(root, account, id, lane, number, wire, is_in_lane)
  redis.call('ZADD', ready_key(root, account, lane), number, id)
  if is_in_lane or ensure_in_lane(root, account, lane) then wake_worker(root, lane, wire) end
end

local function leave_lane(root, account, lane, at)
  redis.call('ZREM', lane_key(root, lane), account)
  redis.call('HSET', account_totals_key(root, account), 'left_' .. lane, int(at))
end

local function remove_ready(root, account, id, lane)
  local ready = ready_key(root, account, lane)
  if redis.call('ZREM', ready, id) == 0 or redis.call('EXISTS', ready) == 1 then return end
  local at = redis.call('ZSCORE', lane_key(root, lane), account)
  if at then leave_lane(root, account, lane, at) end
end
