-- report: a worker says that it lives, or that it goes.
-- ASK      worker, models (that it serves), blob (its pulse; empty when it goes), alive_ms, forget_ms
-- RETURNS  {how many workers live, {model (that is served, or was lately)...}}
-- ATOMIC   because who is counted must be who is listed, and the dead are forgotten by whoever lives.

local function forget(root, worker)
  redis.call('ZREM', pulses_key(root), worker)
  redis.call('HDEL', workers_key(root), worker)
end

local function report(root, ask)
  local pulses, served, now = pulses_key(root), served_key(root), now_ms()
  local forgotten = int(now - ask.forget_ms)
  if ask.blob == '' then
    forget(root, ask.worker)
  else
    redis.call('ZADD', pulses, int(now), ask.worker)
    redis.call('HSET', workers_key(root), ask.worker, ask.blob)
    for _, model in ipairs(ask.models) do redis.call('ZADD', served, int(now), model) end
    -- Only while somebody lives: what the last of them served stays known until others come.
    redis.call('ZREMRANGEBYSCORE', served, '-inf', forgotten)
  end
  for _, worker in ipairs(redis.call('ZRANGE', pulses, '-inf', forgotten, 'BYSCORE')) do
    forget(root, worker)
  end
  local living = redis.call('ZCOUNT', pulses, int(now - ask.alive_ms), '+inf')
  return {living, redis.call('ZRANGE', served, 0, -1)}
end

register('report', report)
