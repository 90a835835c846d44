-- record_refusal: a provider refused a call because it accepts fewer than are made: learn how many it accepts.
-- ASK      circuit, taken (how many recent calls of the same worker were not refused), taken_ms (how long ago the first
--          of them was); if the provider said when to come again: retry_after_ms; if nothing was refused but an answer
--          said that no calls are left until then: is_spent; if what such answers said has proved wrong: is_false
-- RETURNS  in how many ms the next call may be made
-- ATOMIC   because all workers keep to one rate, and count each refusal once.
-- Additive increase, multiplicative decrease. After a refusal no call is made for a pause: as long as the provider
-- said, or else 1 s (or 3 intervals), and twice the last pause where the first call after that was refused. Then calls
-- go one at a time, at nine tenths of the rate that the provider accepted over the last two rounds (a round lasts from
-- the end of a pause to the end of the next), but at no less than half of the last rate. The rate rises the longer
-- nothing is refused (admit_throttled.lua). Example: ten calls are accepted in the first second, and the eleventh is
-- refused for 9 s. From the tenth second on, one call each 1.1 s is made (ten in 10 s, less a tenth), until after some
-- twenty of them one is refused again.

local PAUSE_US, PAUSE_MAX_US = 1000000, 30000000
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

local function record_cause(key, ask)
  redis.call('HDEL', key, 'fresh')
  if not ask.is_spent then redis.call('HDEL', key, 'spent') end
end

local function record_refusal(root, ask)
  if ask.is_false then return lift_unconfirmed(root, ask.circuit) end
  local now, key = now_us(), throttle_key(root, ask.circuit)
  -- A refusal in the future was stored before the clock was set back.
  if tonumber(redis.call('HGET', key, 'refused') or 0) > now then redis.call('DEL', key) end
  local shut, pause, count, since, interval, is_fresh =
    unpack(redis.call('HMGET', key, 'shut', 'pause', 'count', 'since', 'interval', 'fresh'))
  local retry_after_us = ask.retry_after_ms and math.min(ask.retry_after_ms * 1000, RETRY_AFTER_MAX_US)
  shut = tonumber(shut or 0)
  if shut > now and ask.is_spent then return math.ceil((shut - now) / 1000) end
  if shut > now then
    redis.call('HDEL', key, 'spent')
    -- This call was sent before the pause began: it was not accepted either, and only a longer wait is new.
    if tonumber(count) > 1 then redis.call('HINCRBY', key, 'count', -1) end
    if retry_after_us and now + retry_after_us > shut then
      shut = now + retry_after_us
      redis.call('HSET', key, 'shut', int(shut), 'pause', int(retry_after_us))
    end
    return math.ceil((shut - now) / 1000)
  end
  if not count then
    -- Other workers have sent about as many; those of them that are refused are subtracted as their refusals arrive.
    local living = math.max(1, redis.call('ZCARD', report_times_key(root)))
    count, since = ask.taken * living, now - ask.taken_ms * 1000
    if ask.is_spent then redis.call('HSET', key, 'spent', '1') end
  elseif not is_fresh and not ask.is_spent then
    count = math.max(0, tonumber(count) - 1)
  end
  if retry_after_us then
    pause = retry_after_us
  elseif is_fresh then
    pause = math.min(2 * tonumber(pause), PAUSE_MAX_US)
  else
    pause = math.min(math.max(PAUSE_US, 3 * tonumber(interval or 0)), PAUSE_MAX_US)
  end
  record_cause(key, ask)
  redis.call('HSET', key, 'shut', int(now + pause), 'is_shut', '1', 'pause', int(pause), 'count', int(count),
    'since', int(tonumber(since)), 'refused', int(now))
  local kept_ms = math.floor(pause / 1000) + KEPT_MS
  redis.call('PEXPIRE', key, int(kept_ms))
  redis.call('ZADD', throttles_key(root), int(math.floor(now / 1000) + kept_ms), ask.circuit)
  return math.ceil(pause / 1000)
end

register('record_refusal', record_refusal)
