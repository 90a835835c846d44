-- Shared: lanes in virtual time, limits of what an account runs, and the wakeups of workers. The next account is
-- chosen in claim.lua.
--
-- A lane is a sorted set of the accounts that have ready turns. An account's score is its virtual time; a claim takes
-- from the account with the least, and adds the account's stride to it. The stride is STRIDE / weight, so an account of
-- weight 2 moves 500 where one of weight 1 moves 1000, and gets two claims where the other gets one.
-- Example: ann (stride 1000) stands at 7000 and bob (stride 500) at 7000. Claims go to ann (8000), bob (7500), bob
-- (8000), ann (9000), bob (8500), bob (9000): two of bob's for each of ann's.
--
-- The lane's clock is the virtual time of the last claim. An idle account re-enters CLAIMS_AHEAD of its own claims
-- before the clock, or at the time where it left, whichever is later. Example: the clock is at 50000 and ann left at
-- 12000: she enters at 42000, so her next 8 claims come before those of the accounts at the clock. Bob, who left at
-- 49800 with an empty queue a moment ago, re-enters at 49800: leaving and coming back gains nothing.
--
-- An account that runs as many generations as it may stays out of its lanes until one of them ends.

-- Wakes as many workers that wait with BLPOP on this list as it gets marks. A list longer than the most workers
-- that may wait is of no use: it is trimmed to 128, but only once it has 144 entries, not at each push. A key of
-- another type is replaced, because wakeups hold nothing that could be lost.
local function push_wakeups(list, ...)
  local length_max, trimmed_at = 128, 144
  local length = redis.pcall('LPUSH', list, ...)
  if type(length) ~= 'number' then
    redis.call('DEL', list)
    redis.call('LPUSH', list, ...)
  elseif length >= trimmed_at then
    redis.call('LTRIM', list, 0, length_max - 1)
  end
end

local function push_wakeup(list) push_wakeups(list, '1') end

-- A submission whose wire is newer than LANE_WAKEUP_WIRE has a wakeup of its own, on which only workers that can read
-- that wire wait.
local function find_wakeup(root, lane, wire)
  local is_newer = wire and tonumber(wire) > LANE_WAKEUP_WIRE
  return is_newer and wakeup_for_key(root, lane, WIRE_WAKEUP .. wire) or wakeup_key(root, lane)
end

local function wake_worker(root, lane, wire) push_wakeup(find_wakeup(root, lane, wire)) end

-- Returns {running interactive, running batch, running max, stride}; the last two are false before the first accept.
local function load_running(root, account)
  return redis.call('HMGET', account_totals_key(root, account), 'running_interactive', 'running_batch', 'running_most',
    'lane_stride')
end

-- Returns whether the account runs as many as it may in this lane. Batches may take BATCH_SHARE of its limit (at least
-- one), so that its interactive turns find room. Example: with a limit of 8, the batch lane is full at 6 batches, or at
-- fewer once all lanes together run 8.
local function is_running_max_reached(running, lane)
  if not running[3] then return false end
  local running_max, batch = tonumber(running[3]), tonumber(running[2] or 0)
  if lane == 'batch' and batch >= math.max(1, math.floor(running_max * BATCH_SHARE)) then return true end
  return tonumber(running[1] or 0) + batch >= running_max
end

local function is_at_running_max(root, account, lane)
  return is_running_max_reached(load_running(root, account), lane)
end

local function load_stride(root, account)
  return tonumber(redis.call('HGET', account_totals_key(root, account), 'lane_stride')) or STRIDE
end

-- Returns the virtual time at which an account enters a lane that it `left` at that time: see the head of this file.
local function joining_time(root, lane, left, stride)
  local clock = tonumber(redis.call('HGET', clocks_key(root), lane) or 0)
  local early = clock - CLAIMS_AHEAD * tonumber(stride or STRIDE)
  return int(math.max(early, tonumber(left or 0)))
end

-- Puts the account into the lane unless it is there or runs as many as it may. Returns whether it is in the lane now,
-- and whether this call put it there.
local function ensure_in_lane(root, account, lane)
  local key = lane_key(root, lane)
  if redis.call('ZSCORE', key, account) then return true end
  local totals = redis.call('HMGET', account_totals_key(root, account), 'running_interactive', 'running_batch',
    'running_most', 'left_' .. lane, 'lane_stride')
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

-- The same for many turns, each list by one command: `ready` are their numbers and ids, `wires` counts them by wire.
local function make_all_ready(root, account, lane, ready, wires)
  redis.call('ZADD', ready_key(root, account, lane), unpack(ready))
  if not ensure_in_lane(root, account, lane) then return end
  for wire, count in pairs(wires) do
    local marks = {}
    for i = 1, count do marks[i] = '1' end
    push_wakeups(find_wakeup(root, lane, wire), unpack(marks))
  end
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
