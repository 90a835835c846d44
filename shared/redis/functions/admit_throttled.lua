-- admit_throttled: let a call go to a provider that has refused some lately, at the learned rate.
-- ASK      circuit, lane; if it was turned away before: is_again; if it tries another model instead: passes_over
-- RETURNS  -1 if the call may be made now, -2 if it may and the provider is no longer throttled, else in how many ms to
--          try again
-- ATOMIC   because a place is taken by one caller at a time.
-- A caller that is turned away gets a time of its own behind all that were given before, so that many callers come one
-- by one; interactive times come before those of batches. A caller that comes for the first time goes behind those
-- whose time is still to come. How the rate is learned: record_refusal.lua. Example: the interval is 500 ms and three
-- calls come at once. The first goes, the second gets 500 ms, the third 1000 ms.

-- After so long without a refusal, counted from the end of its pause, a provider is no longer throttled.
local FORGOTTEN_US = 300000000
-- A throttle that nobody asks for is deleted.
local KEPT_MS = 600000
local INTERVAL_US, INTERVAL_MAX_US = 1000, 60000000
-- After a first refusal: few calls may have been made because few were wanted, so the interval is at most this.
local FIRST_INTERVAL_MAX_US = 2000000
-- After so many intervals without a call, the rate was that of the demand, and counting starts again.
local IDLE_INTERVALS = 3
-- A call that is early by this share of the interval is on time.
local EARLY = 0.1
-- The rate grows by this share a second, and faster the longer nothing was refused, because a rate learned from few
-- calls is far too low. Example: right after a refusal by 0.4 % a second, after 20 s by 0.8 %, after 60 s by 1.6 %.
local GROWTH_PER_SECOND, GROWTH_DOUBLES_US = 0.004, 20000000
local IDLE_US = 10000000
-- The longest wait: the rate may have risen meanwhile.
local WAIT_MAX_US = 120000000

-- The interval of the first call after a pause, from the calls that were accepted since the round before the last, with
-- a tenth of the rate left off. Example: 20 accepted in 10 s give 500 / 0.9 = 556 ms. It is at most twice the last
-- interval.
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
    -- Whether the provider accepts this call is not known yet.
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

-- Returns the first time that is not given away in this lane or in one that goes before it.
local function first_free(state, lane)
  local at = tonumber(state.booked_interactive or 0)
  return lane == 'batch' and math.max(at, tonumber(state.booked_batch or 0)) or at
end

local function book_later(key, state, ask, now, from, interval)
  local at = math.max(from, first_free(state, ask.lane))
  -- So many wait that no time is given: their waits are spread from half of the longest wait to all of it.
  if at > now + WAIT_MAX_US then return WAIT_MAX_US * (0.5 + now % 1000 / 2000) end
  if not ask.passes_over then redis.call('HSET', key, 'booked_' .. ask.lane, int(at + interval)) end
  return at - now
end

local function admit_throttled(root, ask)
  local now, key = now_us(), throttle_key(root, ask.circuit)
  local state = load_hash(key)
  -- A refusal in the future was stored before the clock was set back.
  local is_future = state and tonumber(state.refused) > now
  if not state or is_future or now - math.max(tonumber(state.refused), tonumber(state.shut)) > FORGOTTEN_US then
    redis.call('DEL', key)
    redis.call('ZREM', throttles_key(root), ask.circuit)
    return -2
  end
  local interval = state.is_shut and learned_interval(state) or tonumber(state.interval)
  -- No time is further ahead than it was set; otherwise the clock was set back.
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
