-- end_call: a call to a provider that has limits has ended.
-- ASK      provider, lane, call (its id); if it took more or fewer tokens than estimated: more_us (as time, signed); if
--          it was not made: request_us (the time that a request takes)
-- RETURNS  1 if it had a slot to give back
-- ATOMIC   because the slot is given back and the tokens are corrected once, however often this is called.

-- A provider forgets an excess within minutes, whatever one call took.
local OWED_MAX_US = 300000000

local function end_call(root, ask)
  if redis.call('ZREM', slots_key(root, ask.provider, ask.lane), ask.call) == 0 then return 0 end
  local key = rates_key(root, ask.provider)
  local tokens = ask.more_us and redis.call('HGET', key, 'tokens')
  if tokens then
    local now, before = now_us(), tonumber(tokens)
    local arrival = math.min(before + ask.more_us, math.max(before, now + OWED_MAX_US))
    redis.call('HSET', key, 'tokens', int(arrival))
    redis.call('PEXPIRE', key, int(math.max(0, (arrival - now) / 1000) + 60000))
  end
  local requests = ask.request_us and redis.call('HGET', key, 'requests')
  if requests then redis.call('HSET', key, 'requests', int(tonumber(requests) - ask.request_us)) end
  return 1
end

register('end_call', end_call)
