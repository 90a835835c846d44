-- Shared: the submission limit of an account, one GCRA for everything that an account creates.

-- Takes one submission from the limit if there is room. `arrival` is the time at which the account would be back at its
-- full allowance; each submission moves it 60 s / per_minute ahead, and it may lie a minute ahead of now at most.
-- Example: with 60 a minute, after 30 submissions in one moment arrival is now + 30 s, 30 remain, and all 60 do in 30
-- s. An arrival further ahead than the window was stored before the clock was set back. Returns {limit, remaining, ms
-- until all remain, ms until one more is allowed}, and whether this one is allowed.
local function take_rate(root, account, per_minute, now)
  local key = submissions_key(root, account)
  local interval_us = 60000000 / per_minute
  local window_us = interval_us * per_minute
  local stored = math.min(tonumber(redis.call('GET', key) or 0), now + window_us)
  local arrival = math.max(stored, now) + interval_us
  local early_us = arrival - now - window_us
  if early_us > 0 then
    return {per_minute, 0, math.ceil((arrival - interval_us - now) / 1000), math.ceil(early_us / 1000)}, false
  end
  redis.call('SET', key, int(arrival), 'PX', int(math.ceil((arrival - now) / 1000) + 1000))
  local remaining = math.floor((window_us - (arrival - now)) / interval_us + 0.000001)
  local retry_ms = math.max(0, math.ceil((arrival + interval_us - now - window_us) / 1000))
  return {per_minute, remaining, math.ceil((arrival - now) / 1000), retry_ms}, true
end
