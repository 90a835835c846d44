-- record_refusal: a provider refused a call because it accepts fewer than are made: learn how many it accepts.
-- ASK      circuit; recent calls of the same worker that were not refused: taken, taken_ms (how many in their busiest
--          time up to now, and how long ago the first of them was), minute, minute_ms (the same of the last minute); if
--          the provider said when to come again: retry_after_ms; if nothing was refused but an answer said that no
--          calls are left until then: is_spent; if what such answers said has proved wrong: is_false
-- RETURNS  in how many ms the next call may be made
-- ATOMIC   because all workers keep to one rate, and count each refusal once.
-- Additive increase, multiplicative decrease. After a refusal no call is made for a pause: as long as the provider
-- said, or else 1 s (once the rate is known, 2 intervals or half of the last pause), and twice the last pause where the
-- first call after that was refused. Then calls go one at a time, at nine tenths of the rate that the provider accepted
-- over the last two rounds (a round lasts from the end of a pause to the end of the next), but at no less than half of
-- the last rate. The rate rises the longer nothing is refused (admit_throttled.lua). Example: ten calls are accepted in
-- the first second, and the eleventh is refused for 9 s. From the tenth second on, one call each 1.1 s is made (ten in
-- 10 s, less a tenth), until after some forty of them one is refused again. A refusal that chance explains
-- (throttle.lua) starts no pause: only its own message waits.

local PAUSE = {us = 1000000, known_us = 250000, max_us = 30000000, intervals = 2, intervals_max = 10}
local RETRY_AFTER_MAX_US = 3600000000
-- A throttle that nobody asks for is deleted some time after its pause.
local KEPT_MS = 600000

-- A throttle that only an answer's headers caused, and that no refusal confirmed, ends when the headers prove wrong.
local function lift_unconfirmed(root, circuit)
  local key = throttle_key(root, circuit)
  if redis.call('HGET', key, 'spent') then
    redis.call('DEL', key)
    redis.call('ZREM', throttles_key(root), circuit)
  end
  return 0
end

-- A call that was sent before the pause began was not accepted either, and only a longer wait is new.
local function refuse_in_pause(key, state, ask, now, retry_after_us)
  local shut = tonumber(state.shut)
  if not ask.is_spent then
    redis.call('HDEL', key, 'spent')
    if tonumber(state.count) > 1 then redis.call('HINCRBY', key, 'count', -1) end
    if retry_after_us and now + retry_after_us > shut then
      shut = now + retry_after_us
      redis.call('HSET', key, 'shut', int(shut), 'pause', int(retry_after_us))
    end
  end
  return math.ceil((shut - now) / 1000)
end

-- Other workers have sent about as many; those of them that are refused are subtracted as their refusals arrive.
local function begin_counts(root, key, state, ask, now)
  local living = math.max(1, redis.call('ZCARD', report_times_key(root)))
  state.count, state.since = ask.taken * living, now - ask.taken_ms * 1000
  redis.call('HSET', key, 'count', int(state.count), 'since', int(state.since))
  if ask.minute then
    redis.call('HSET', key, 'count_minute', int(ask.minute * living), 'since_minute', int(now - ask.minute_ms * 1000))
  end
  if ask.is_spent then redis.call('HSET', key, 'spent', '1') end
end

local function count_refusal(key, state)
  state.count = math.max(0, tonumber(state.count) - 1)
  redis.call('HSET', key, 'count', int(state.count))
  if not state.interval then return end
  local field = throttle.is_low(state) and 'low_refused' or 'high_refused'
  state[field] = tonumber(state[field] or 0) + 1
  state.streak = tonumber(state.streak or 0) + 1
  redis.call('HSET', key, field, int(state[field]), 'streak', string.format('%.2f', state.streak))
end

local function pause_us(state)
  if state.fresh then return math.min(2 * tonumber(state.pause), PAUSE.max_us) end
  if not state.interval then return PAUSE.us end
  local interval, shut = tonumber(state.interval), tonumber(state.shut)
  -- With the pauses that followed it, the last one took so long.
  local last = shut - tonumber(state.paused or shut)
  last = math.min(last / 2, PAUSE.intervals_max * interval)
  return math.min(math.max(PAUSE.known_us, PAUSE.intervals * interval, last), PAUSE.max_us)
end

local function begin_pause(root, key, state, ask, now, retry_after_us)
  local pause = retry_after_us or pause_us(state)
  if not state.fresh then redis.call('HSET', key, 'paused', int(now)) end
  if state.gap and not state.fresh and not ask.is_spent and not throttle.is_low(state) then
    redis.call('HSET', key, 'peak', state.gap)
  else
    redis.call('HDEL', key, 'peak')
  end
  redis.call('HDEL', key, 'fresh')
  if not ask.is_spent then redis.call('HDEL', key, 'spent') end
  redis.call('HSET', key, 'shut', int(now + pause), 'is_shut', '1', 'pause', int(pause), 'refused', int(now))
  local kept_ms = math.floor(pause / 1000) + KEPT_MS
  redis.call('PEXPIRE', key, int(kept_ms))
  redis.call('ZADD', throttles_key(root), int(math.floor(now / 1000) + kept_ms), ask.circuit)
  return math.ceil(pause / 1000)
end

local function record_refusal(root, ask)
  if ask.is_false then return lift_unconfirmed(root, ask.circuit) end
  local now, key = now_us(), throttle_key(root, ask.circuit)
  local state = load_hash(key) or {}
  -- A refusal in the future was stored before the clock was set back.
  if tonumber(state.refused or 0) > now then
    redis.call('DEL', key)
    state = {}
  end
  local retry_after_us = ask.retry_after_ms and math.min(ask.retry_after_ms * 1000, RETRY_AFTER_MAX_US)
  if tonumber(state.shut or 0) > now then return refuse_in_pause(key, state, ask, now, retry_after_us) end
  if not state.count then
    begin_counts(root, key, state, ask, now)
  elseif not state.fresh and not ask.is_spent then
    count_refusal(key, state)
    if state.interval and throttle.is_chance(state) then
      redis.call('HSET', key, 'refused', int(now))
      return math.ceil((retry_after_us or tonumber(state.interval)) / 1000)
    end
  end
  return begin_pause(root, key, state, ask, now, retry_after_us)
end

register('record_refusal', record_refusal)
