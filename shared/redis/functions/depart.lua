-- depart: a call to a provider that has limits is over.
-- ASK      provider, lane, call (its id); if it took more or fewer tokens than was thought: more_us (as time, signed)
-- RETURNS  1 if it had a slot to give back
-- ATOMIC   because the slot is given back and the tokens are corrected once, however often it is said.

local function depart(root, ask)
  if redis.call('ZREM', slots_key(root, ask.provider, ask.lane), ask.call) == 0 then return 0 end
  local key = rates_key(root, ask.provider)
  local tokens = ask.more_us and redis.call('HGET', key, 'tokens')
  if tokens then
    local arrival = tonumber(tokens) + ask.more_us
    redis.call('HSET', key, 'tokens', int(arrival))
    redis.call('PEXPIRE', key, int(math.max(0, (arrival - now_us()) / 1000) + 60000))
  end
  return 1
end

register('depart', depart)
