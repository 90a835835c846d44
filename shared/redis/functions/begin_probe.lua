-- begin_probe: ask to make the one call that probes whether an open circuit can be closed.
-- ASK      circuit, call (its id), account, lease_ms
-- RETURNS  {'granted' or the breaker's state, ms left, why}
-- ATOMIC   because there is one probe among all workers, until it ends or its lease expires.
-- Suspect accounts, whose messages opened the breaker of all accounts, probe after others, and the one that opened it
-- last probes last: its next message may fail for the same reason. They wait so long for another account's probe, and
-- probe where there is none.

local OPENER_MS, SUSPECT_MS = 5000, 2000

local function wait_for_others(root, ask, key, now)
  if string.find(ask.circuit, '@', 1, true) then return 0 end
  local due, account = unpack(redis.call('HMGET', key, 'due', 'account'))
  local wait_max_ms = account == ask.account and OPENER_MS
    or suspect_accounts.contains(root, ask.circuit, ask.account, now) and SUSPECT_MS or 0
  return math.max(0, math.min(wait_max_ms, tonumber(due) + wait_max_ms - now))
end

local function begin_probe(root, ask)
  local now = now_ms()
  local breaker = read_breaker(root, ask.circuit, now)
  local key = breaker_key(root, ask.circuit)
  local is_own = breaker[1] == 'probing' and redis.call('HGET', key, 'probe') == ask.call
  if breaker[1] ~= 'due' and not is_own then return breaker end
  local wait_ms = is_own and 0 or wait_for_others(root, ask, key, now)
  if wait_ms > 0 then return {'open', wait_ms, breaker[3]} end
  -- If the clock was set back, both times are in the future: from now on the probe counts.
  redis.call('HSET', key, 'probe', ask.call, 'lease', int(now + ask.lease_ms), 'trips',
    redis.call('HGET', key, 'trips') or 1, 'opened', int(now), 'due', int(now))
  return {'granted', 0, breaker[3]}
end

register('begin_probe', begin_probe)
