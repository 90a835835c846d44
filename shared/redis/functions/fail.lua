-- fail: a provider's own failure is told, and may open the breaker of its circuit.
-- ASK      circuit, call (its id), why (the failure's category), window_ms, failures_min, failures_share, cooling_ms,
--          cooling_max_ms, chance (0 to 1, for the jitter); if it opens at once: at_once_ms (for so long); if any:
--          answered (calls of the same worker that no report has told of yet)
-- RETURNS  {state, ms left, why, is new (1 if this call opened it)}
-- ATOMIC   because the failure that is one too many is counted and opens, and of two only one is that.
-- A failure is kept by its call's id, so that telling it again counts nothing. While it is open, only the probe's
-- own failure counts: the others began before. A probe that closed it and then failed opens it again.

local KEEP_MS = 600000

local function count_answered(root, ask, now)
  local last, count = window_slot(now, ask.window_ms), ask.answered or 0
  for slot = last - WINDOW_SLOTS + 1, last do
    count = count + tonumber(redis.call('GET', successes_key(root, ask.circuit, int(slot))) or 0)
  end
  return count
end

-- Keeps the failure; tells whether there were too many of late.
local function is_one_too_many(root, ask, now)
  local key = failures_key(root, ask.circuit)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', int(now - ask.window_ms))
  -- Failures of the future were noted before the clock was set back.
  redis.call('ZREMRANGEBYSCORE', key, '(' .. int(now), '+inf')
  redis.call('ZADD', key, 'NX', int(now), ask.call)
  redis.call('PEXPIRE', key, int(ask.window_ms))
  local failed = redis.call('ZCARD', key)
  if failed < ask.failures_min then return false end
  return failed >= ask.failures_share * (failed + count_answered(root, ask, now))
end

local function open(root, ask, trips, now)
  local grown = ask.cooling_ms * 2 ^ math.min(trips - 1, 20) * (0.8 + 0.4 * ask.chance)
  local left = math.floor(ask.at_once_ms or math.min(grown, ask.cooling_max_ms))
  local key = breaker_key(root, ask.circuit)
  redis.call('HDEL', key, 'probe', 'lease')
  redis.call('HSET', key, 'opened', int(now), 'due', int(now + left), 'trips', trips, 'why', ask.why)
  redis.call('PEXPIRE', key, int(left + KEEP_MS))
  redis.call('ZADD', cooling_key(root), int(now + left), ask.circuit)
  redis.call('DEL', failures_key(root, ask.circuit))
  return {'open', left, ask.why, 1}
end

local function fail(root, ask)
  local now = now_ms()
  local seen = look_at_breaker(root, ask.circuit, now)
  local probe, trips = unpack(redis.call('HMGET', breaker_key(root, ask.circuit), 'probe', 'trips'))
  if probe == ask.call then return open(root, ask, trips + 1, now) end
  if seen[1] ~= 'closed' then return {seen[1], seen[2], seen[3], 0} end
  if ask.at_once_ms or is_one_too_many(root, ask, now) then return open(root, ask, 1, now) end
  return {'closed', 0, '', 0}
end

register('fail', fail)
