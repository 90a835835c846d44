-- Shared: the submission limit of an account, one GCRA for everything that an account creates.

-- Takes one submission from the limit if there is room. `arrival` is the time at which the account would be back at its
-- full allowance; each submission moves it 60 s / per_minute ahead, and it may lie a minute ahead of now at most.
-- Example: with 60 a minute, after 30 submissions in one moment arrival is now + 30 s, 30 remain, and all 60 do in 30
-- s. An arrival further ahead than the window was stored before the clock was set back. Returns {limit, remaining, ms
-- until all remain, ms until one more is allowed}, and whether this one is allowed.
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
