-- Shared: the breakers of circuits, and the slots of calls to providers.

-- A circuit is a provider's model under one credential. While its breaker is open, the record says from when it may be
-- probed (`due`), and which call probes until when. Returns {state, ms left, why}; the state is closed, open, due (a
-- probe may begin) or probing. One that was opened in the future is due: the clock was set back.
local function read_breaker(root, circuit, now)
  local fields = redis.call('HMGET', breaker_key(root, circuit), 'due', 'lease', 'why', 'opened')
  local due, lease, why, opened = tonumber(fields[1]), tonumber(fields[2] or 0), fields[3], tonumber(fields[4] or 0)
  if not due then return {'closed', 0, ''} end
  if opened <= now and due > now then return {'open', due - now, why} end
  if opened <= now and lease > now then return {'probing', lease - now, why} end
  return {'due', 0, why}
end

-- Answered calls are counted in slots of time, WINDOW_SLOTS to a window. Example: a window of 60 s has slots of 10 s.
local WINDOW_SLOTS = 6

local function window_slot(now, window_ms) return math.floor(now * WINDOW_SLOTS / window_ms) end

local function lease_slot(root, provider, lane, call, now, lease_ms)
  local key = slots_key(root, provider, lane)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', int(now))
  redis.call('ZADD', key, int(now + lease_ms), call)
  redis.call('PEXPIRE', key, int(2 * lease_ms))
end
