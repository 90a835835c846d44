-- beat: keep the leases of one worker.
-- ASK      lease_ms, held = {{account, id, attempt}...}; if its listener is away: worker, deaf_ms (for so long
--          nobody misses it)
-- RETURNS  {{account, id, attempt, 'lost' or 'cancel'}...} for those the worker must stop
-- ATOMIC   because a lease must not be renewed for an attempt that has just been given away.

local function beat(root, ask)
  local now, stop = now_ms(), {}
  local ends = int(now + ask.lease_ms)
  -- A time to come is none since when it is silent.
  if ask.deaf_ms then redis.call('ZADD', holders_key(root), 'XX', int(now + ask.deaf_ms), ask.worker) end
  for _, held in ipairs(ask.held) do
    local account, id, attempt = held[1], held[2], held[3]
    -- What is no hash is no record.
    local record = redis.pcall('HMGET', generation_key(root, account, id), 'attempt', 'cancel')
    local leased = redis.call('ZSCORE', leases_key(root), member(account, id))
    if not leased or tonumber(record[1]) ~= attempt then
      table.insert(stop, {account, id, attempt, 'lost'})
    else
      redis.call('ZADD', leases_key(root), 'XX', ends, member(account, id))
      if record[2] then table.insert(stop, {account, id, attempt, 'cancel'}) end
    end
  end
  return stop
end

register('beat', beat)
