-- end_probe: a probe ended without a failure: the provider answered, or nothing was learned.
-- ASK      circuit, call (its id), is_well (false: nothing was learned, and another may probe at once)
-- RETURNS  1 if it was the probe under way
-- ATOMIC   because a probe whose lease has expired no longer decides anything.
-- The call's id stays in the record: the call may still fail after its first words.

local function end_probe(root, ask)
  local key = breaker_key(root, ask.circuit)
  local due, probe, lease = unpack(redis.call('HMGET', key, 'due', 'probe', 'lease'))
  if not due or not lease or probe ~= ask.call then return 0 end
  if ask.is_well then
    redis.call('HDEL', key, 'due', 'lease', 'why')
    redis.call('ZREM', cooling_key(root), ask.circuit)
    redis.call('DEL', failures_key(root, ask.circuit), failed_messages_key(root, ask.circuit))
  else
    redis.call('HDEL', key, 'probe', 'lease')
  end
  return 1
end

register('end_probe', end_probe)
