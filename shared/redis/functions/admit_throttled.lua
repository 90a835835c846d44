-- admit_throttled: let a call go to a provider that has refused some lately, at the learned rate.
-- ASK      circuit, lane; if it was turned away before: is_again; if it tries another model instead: passes_over
-- RETURNS  -1 if the call may be made now, -2 if it may and the provider is no longer throttled, else in how many ms to
--          try again
-- ATOMIC   because a place is taken by one caller at a time.
-- A caller that is turned away gets a time of its own behind all that were given before, so that many callers come one
-- by one; interactive times come before those of batches. A caller that comes for the first time goes behind those
-- whose time is still to come. How the rate is learned: record_refusal.lua. Example: the interval is 500 ms and three
-- calls come at once. The first goes, the second gets 500 ms, the third 1000 ms.

-- After so long without a refusal, counted from the end of its pause, a provider is no longer throttled, if it accepted
-- many calls since, or if fewer are wanted than the rate allows (a gap of more than so many intervals).
local FORGOTTEN = {us = 300000000, calls = 100, intervals = 1.5}
-- A throttle that nobody asks for is deleted.
local KEPT_MS = 600000
-- After a first refusal: few calls may have been made because few were wanted, so the interval is at most this, and the
-- rate counts as learned from few calls.
local INTERVAL = {min_us = 1000, max_us = 60000000, first_max_us = 2000000, first_calls_max = 5}
-- After so many intervals without a call, and at least so long, the rate was that of the demand: counting starts again.
local IDLE = {intervals = 3, us = 1000000}
-- The rate right before a refusal was too high; of the other calls, hardly any was refused.
local PEAK_SHARE = 0.9
-- A call that is early by this share of the interval is on time.
local EARLY = 0.1
-- By then a refusal of the first call after a pause has arrived; the second one waits for that.
local REFUSAL_US = 400000
-- A learned rate is kept for 30 calls, or for fewer if it was learned from few: 3 for each. Then it grows with each
-- call by 0.5 % (if learned from few calls, by 15 % divided by their number), twice as much 20 calls later.
local STEADY = {calls = 30, per_call = 3}
local GROWTH = {per_call = 0.005, of_one = 0.15, doubles_calls = 20, max = 0.1}
-- Unless refusals are by chance, the rate grows by no more than 0.4 % a second, twice as much 20 s later, because many
-- limits let some more calls pass before they refuse one.
GROWTH.per_second, GROWTH.doubles_us = 0.004, 20000000
-- If they are by chance, it grows faster, the more are.
GROWTH.per_chance = 15
-- The rate allows at most so many times as many calls as are made: what nobody uses proves nothing. It may be more
-- where little is known of the rate, or refusals are by chance.
local UNUSED = {max = 1.3, unsure_max = 2, gap_weight = 0.0625}
-- The longest wait: the rate may have risen meanwhile.
local WAIT_MAX_US = 120000000
-- Times are given at this share of the interval, since the rate may rise before they come. A caller whose place is not
-- free at its time waits if it soon will be, by this share of the interval, and else gets another time.
local BOOKED = {share = 0.7, soon = 0.5}

-- The interval of the first call after a pause, from the calls that were accepted since the round before the last, or
-- from those right before a refusal at a high rate, with a tenth of the rate left off. Example: 20 accepted in 10 s
-- give 500 / 0.9 = 556 ms. It is at most twice the last interval. Also returns the number of those calls.
local function learned_interval(state)
  local count = math.max(1, tonumber(state.count) + tonumber(state.count_before or 0))
  local gap = (tonumber(state.shut) - tonumber(state.since_before or state.since)) / count
  if state.peak then gap = math.min(gap, tonumber(state.peak) / PEAK_SHARE) end
  local interval_max = state.interval and 2 * tonumber(state.interval) or INTERVAL.first_max_us
  return math.max(INTERVAL.min_us, math.min(gap / 0.9, interval_max, INTERVAL.max_us)), count
end

-- The first refusal names the busiest calls before it, and all of the last minute, which show the higher rate after a
-- long pause. Example: 40 of 600 calls came in the last 2 s; after a pause of 60 s, all 600 count.
local function choose_first_count(key, state)
  if not state.count_minute then return end
  redis.call('HDEL', key, 'count_minute', 'since_minute')
  local shut = tonumber(state.shut)
  local of_minute = tonumber(state.count_minute) / math.max(1, shut - tonumber(state.since_minute))
  if of_minute > tonumber(state.count) / math.max(1, shut - tonumber(state.since)) then
    state.count, state.since = state.count_minute, state.since_minute
    redis.call('HSET', key, 'count', state.count, 'since', state.since)
  end
end

-- Begins an experiment with the first call after a pause (throttle.lua).
local function begin_experiment(key, state, interval)
  local _, known = learned_interval(state)
  if not state.interval then known = math.min(known, INTERVAL.first_calls_max) end
  -- A rate that proved too high while it was low says nothing about chance.
  local is_settled = tonumber(state.high or 0) > 0
  local chance = is_settled and throttle.chance_of_refusal(state) or tonumber(state.chance or 0)
  redis.call('HSET', key, 'interval', int(interval), 'gap', int(interval), 'proven', int(0.9 * interval),
    'known', int(known), 'chance', string.format('%.4f', chance), 'low', '0', 'low_refused', '0',
    'high', '0', 'high_refused', '0', 'streak', '0')
end

-- Returns the moving average of the time between two calls, about the last 16.
local function average_gap(state, now, interval)
  local gap = tonumber(state.gap or interval)
  local passed = math.max(0, now - (tonumber(state.next) - interval))
  return gap + UNUSED.gap_weight * (math.min(passed, 4 * gap) - gap)
end

local function shortened_interval(state, now, interval, gap)
  local known, chance = tonumber(state.known or STEADY.calls), throttle.chance_of_refusal(state)
  local is_chance = chance >= throttle.CHANCE_MIN
  local is_sure = known >= throttle.MANY_CALLS and not is_chance
  local calls = tonumber(state.low or 0) + tonumber(state.high or 0)
  local growing = calls - math.min(is_chance and STEADY.calls / 2 or STEADY.calls, STEADY.per_call * known)
  if growing <= 0 then return interval end
  local growth = math.max(GROWTH.per_call, GROWTH.of_one / known) * (1 + growing / GROWTH.doubles_calls)
  if is_sure then
    local doublings = (now - tonumber(state.refused)) / GROWTH.doubles_us
    growth = math.min(growth, GROWTH.per_second * gap / 1000000 * (1 + doublings))
  elseif is_chance then
    growth = growth * (1 + GROWTH.per_chance * chance)
  end
  local shortened = interval * math.exp(-math.min(GROWTH.max, growth))
  local interval_min = math.max(INTERVAL.min_us, gap / (is_sure and UNUSED.max or UNUSED.unsure_max))
  return math.min(interval, math.max(shortened, interval_min))
end

local function count_call(key, state, now, interval)
  local gap = average_gap(state, now, interval)
  local streak = math.max(0, tonumber(state.streak or 0) - throttle.STREAK_DECAY)
  redis.call('HINCRBY', key, 'count', 1)
  redis.call('HINCRBY', key, throttle.is_low(state) and 'low' or 'high', 1)
  redis.call('HSET', key, 'gap', int(gap), 'interval', int(shortened_interval(state, now, interval, gap)),
    'streak', string.format('%.2f', streak))
end

local function is_idle(state, now, interval)
  local since = math.max(tonumber(state.next or now), tonumber(state.shut))
  return now - since > math.max(IDLE.us, IDLE.intervals * interval)
end

local function take_place(key, state, now, from, interval)
  local until_next = state.is_shut and math.max(interval, REFUSAL_US) or interval
  redis.call('HSET', key, 'next', int(math.max(now, from) + until_next))
  if state.is_shut then
    -- Whether the provider accepts this call is not known yet.
    redis.call('HDEL', key, 'is_shut')
    redis.call('HSET', key, 'fresh', int(now))
    begin_experiment(key, state, interval)
  elseif state.fresh then
    redis.call('HDEL', key, 'fresh')
    redis.call('HSET', key, 'count_before', state.count, 'since_before', state.since, 'since', state.fresh, 'count', 2)
  else
    count_call(key, state, now, interval)
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
  if not ask.passes_over then redis.call('HSET', key, 'booked_' .. ask.lane, int(at + BOOKED.share * interval)) end
  return at - now
end

local function is_forgotten(state, now)
  if now - math.max(tonumber(state.refused), tonumber(state.shut)) <= FORGOTTEN.us then return false end
  local calls, gap = tonumber(state.low or 0) + tonumber(state.high or 0), tonumber(state.gap or 0)
  return not state.gap or calls >= FORGOTTEN.calls or gap > FORGOTTEN.intervals * tonumber(state.interval)
end

local function admit_throttled(root, ask)
  local now, key = now_us(), throttle_key(root, ask.circuit)
  local state = load_hash(key)
  -- A refusal in the future was stored before the clock was set back.
  if not state or tonumber(state.refused) > now or is_forgotten(state, now) then
    redis.call('DEL', key)
    redis.call('ZREM', throttles_key(root), ask.circuit)
    return -2
  end
  if state.is_shut and tonumber(state.shut) <= now then choose_first_count(key, state) end
  local interval = state.is_shut and learned_interval(state) or tonumber(state.interval)
  -- No time is further ahead than it was set; otherwise the clock was set back.
  local shut = math.min(tonumber(state.shut), now + tonumber(state.pause or 0))
  local from = math.max(shut, math.min(tonumber(state.next or 0), now + 2 * interval + REFUSAL_US))
  local early = state.is_shut and 0 or EARLY * interval
  local is_next = ask.is_again or first_free(state, ask.lane) <= now + interval
  if is_next and now >= from - early then
    take_place(key, state, now, from, interval)
    redis.call('PEXPIRE', key, KEPT_MS)
    redis.call('ZADD', throttles_key(root), int(math.floor(now / 1000) + KEPT_MS), ask.circuit)
    return -1
  end
  if ask.is_again and from - now <= BOOKED.soon * interval then return math.ceil((from - now) / 1000) end
  return math.ceil(book_later(key, state, ask, now, from, interval) / 1000)
end

register('admit_throttled', admit_throttled)
