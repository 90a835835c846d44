-- probe: ask to be the one call that tries whether a provider's model is well again.
-- ASK      circuit, call (its id), lease_ms
-- RETURNS  {'granted' or the breaker's state, ms left, why}
-- ATOMIC   because there is one probe in the whole fleet, until it ends or its lease lapses.

local function probe(root, ask)
  local now = now_ms()
  local seen = look_at_breaker(root, ask.circuit, now)
  local key = breaker_key(root, ask.circuit)
  local is_own = seen[1] == 'probing' and redis.call('HGET', key, 'probe') == ask.call
  if seen[1] ~= 'due' and not is_own then return seen end
  -- Where the clock was set back, both times lie ahead: the probe is what counts from here on.
  redis.call('HSET', key, 'probe', ask.call, 'lease', int(now + ask.lease_ms), 'trips',
    redis.call('HGET', key, 'trips') or 1, 'opened', int(now), 'due', int(now))
  return {'granted', 0, seen[3]}
end

register('probe', probe)
