-- The submission limit of an account: one GCRA for everything that creates.

-- `arrival` is the time at which the account would be idle again if it kept to its rate. One beyond the window was
-- stored before the clock was set back. Returns {limit, remaining, reset ms, ms until one more would be let through},
-- and whether this one is.
local function take_rate(root, account, per_minute, now)
  local key = submissions_key(root, account)
  local interval = 60000000 / per_minute
  local window = interval * per_minute
  local stored = math.min(tonumber(redis.call('GET', key) or 0), now + window)
  local arrival = math.max(stored, now) + interval
  local over = arrival - now - window
  if over > 0 then
    return {per_minute, 0, math.ceil((arrival - interval - now) / 1000), math.ceil(over / 1000)}, false
  end
  redis.call('SET', key, int(arrival), 'PX', int(math.ceil((arrival - now) / 1000) + 1000))
  local remaining = math.floor((window - (arrival - now)) / interval + 0.000001)
  local retry = math.max(0, math.ceil((arrival + interval - now - window) / 1000))
  return {per_minute, remaining, math.ceil((arrival - now) / 1000), retry}, true
end
