-- admit_throttled: let a call go to a provider that has refused some lately, at the rate that was learned.
-- ASK      circuit, lane; if it was turned away before: is_again; if it tries another model instead: passes_over
-- RETURNS  -1 where the call may be made now, -2 where it may and the provider is throttled no more, else in how
--          many ms to come again
-- ATOMIC   because a place is taken by one caller at a time.
-- Who is turned away is given a time of its own behind all who were before, so that a long line comes one by one
-- and not all at once; persons' times are given before those of batches. One that comes for the first time goes
-- behind those who were given a time that is still to come.

-- A provider that has refused nothing for so long, after its pause, is not throttled any more.
local FORGOTTEN_US = 300000000
-- One that nobody asks for is forgotten.
local KEPT_MS = 600000
local INTERVAL_US, INTERVAL_MAX_US = 1000, 60000000
-- After a first refusal: few calls may have been made because few were wanted, so their rate is no bound.
local FIRST_INTERVAL_MAX_US = 2000000
-- Where nobody called for so many intervals, the rate is that of the demand, and the count begins again.
local IDLE_INTERVALS = 3
-- A call early by so much of the interval is on time.
local EARLY = 0.1
-- The rate grows by this share a second, and faster the longer nothing was refused: what was learned from few calls
-- is far too slow.
local GROWTH_PER_SECOND, GROWTH_DOUBLES_US = 0.004, 20000000
local IDLE_US = 10000000
-- Nobody is sent away for longer: the rate may have risen meanwhile.
local WAIT_MAX_US = 120000000

-- The first call after a pause: the rate is what was taken on since the round before the last, less a tenth.
local function learned_interval(state)
  local count = tonumber(state.count) + tonumber(state.count_before or 0)
  local since = tonumber(state.since_before or state.since)
  local interval = (tonumber(state.shut) - since) / math.max(1, count) / 0.9
  local interval_max = state.interval and 2 * tonumber(state.interval) or FIRST_INTERVAL_MAX_US
  interval_max = math.min(INTERVAL_MAX_US, interval_max)
  return math.max(INTERVAL_US, math.min(interval_max, interval))
end

local function shortened_interval(state, now, interval)
  local passed = math.max(0, math.min(IDLE_US, now - (tonumber(state.next) - interval)))
  local growth = GROWTH_PER_SECOND * passed / 1000000 * (1 + (now - tonumber(state.refused)) / GROWTH_DOUBLES_US)
  return math.max(INTERVAL_US, interval * math.exp(-growth))
end

local function is_idle(state, now, interval)
  return state.next and now - tonumber(state.next) > IDLE_INTERVALS * interval
end

local function take_place(key, state, now, interval)
  redis.call('HSET', key, 'next', int(now + interval))
  if state.is_shut then
    -- Whether this one is taken on is not known yet.
    redis.call('HDEL', key, 'is_shut')
    redis.call('HSET', key, 'fresh', int(now), 'interval', int(interval))
  elseif state.fresh then
    redis.call('HDEL', key, 'fresh')
    redis.call('HSET', key, 'count_before', state.count, 'since_before', state.since, 'since', state.fresh, 'count', 2)
  else
    redis.call('HINCRBY', key, 'count', 1)
    redis.call('HSET', key, 'interval', int(shortened_interval(state, now, interval)))
  end
  if is_idle(state, now, interval) then
    redis.call('HDEL', key, 'count_before', 'since_before')
    redis.call('HSET', key, 'count', 1, 'since', int(now))
  end
end

-- The first time that nobody of the lane, or of one that goes before it, was given.
local function first_free(state, lane)
  local at = tonumber(state.booked_interactive or 0)
  return lane == 'batch' and math.max(at, tonumber(state.booked_batch or 0)) or at
end

local function book_later(key, state, ask, now, from, interval)
  local at = math.max(from, first_free(state, ask.lane))
  -- So many wait that no time is given: they come apart.
  if at > now + WAIT_MAX_US then return WAIT_MAX_US * (0.5 + now % 1000 / 2000) end
  if not ask.passes_over then redis.call('HSET', key, 'booked_' .. ask.lane, int(at + interval)) end
  return at - now
end

local function admit_throttled(root, ask)
  local now, key = now_us(), throttle_key(root, ask.circuit)
  local state = load_hash(key)
  -- A refusal of the future was before the clock was set back.
  local is_future = state and tonumber(state.refused) > now
  if not state or is_future or now - math.max(tonumber(state.refused), tonumber(state.shut)) > FORGOTTEN_US then
    redis.call('DEL', key)
    redis.call('ZREM', throttles_key(root), ask.circuit)
    return -2
  end
  local interval = state.is_shut and learned_interval(state) or tonumber(state.interval)
  -- No time lies further ahead than it was set: else the clock was set back.
  local shut = math.min(tonumber(state.shut), now + tonumber(state.pause or 0))
  local from = math.max(shut, math.min(tonumber(state.next or 0), now + interval))
  local early = state.is_shut and 0 or EARLY * interval
  local is_next = ask.is_again or first_free(state, ask.lane) <= now + interval
  if is_next and now >= from - early then
    take_place(key, state, now, interval)
    redis.call('PEXPIRE', key, KEPT_MS)
    redis.call('ZADD', throttles_key(root), int(math.floor(now / 1000) + KEPT_MS), ask.circuit)
    return -1
  end
  return math.ceil(book_later(key, state, ask, now, from, interval) / 1000)
end

register('admit_throttled', admit_throttled)
