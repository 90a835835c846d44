-- renew_leases: extend the leases of one worker.
-- ASK      lease_ms, held = {{account, id, attempt}...}; if its listener is disconnected: worker, without_listener_ms
--          (for so long the worker is not taken for absent)
-- RETURNS  {{account, id, attempt, 'lost' or 'cancel'}...} for those the worker must stop
-- ATOMIC   because a lease must not be extended for an attempt that has just been given away.

-- One ZMSCORE and one ZADD serve so many leases.
local LEASES_PER_CALL = 500

-- Extends the leases from `first` to `last` that still hold, and adds the others to `stop`.
local function renew(root, held, first, last, lease_ends, stop)
  local names, renewed = {}, {}
  for i = first, last do names[#names + 1] = member(held[i][1], held[i][2]) end
  local leases = redis.call('ZMSCORE', leases_key(root), unpack(names))
  for i, name in ipairs(names) do
    local account, id, attempt = unpack(held[first + i - 1])
    -- A record of another type has no attempt.
    local record = redis.pcall('HMGET', generation_key(root, account, id), 'attempt', 'cancel')
    if not leases[i] or tonumber(record[1]) ~= attempt then
      stop[#stop + 1] = {account, id, attempt, 'lost'}
    else
      renewed[#renewed + 1], renewed[#renewed + 2] = lease_ends, name
      if record[2] then stop[#stop + 1] = {account, id, attempt, 'cancel'} end
    end
  end
  if renewed[1] then redis.call('ZADD', leases_key(root), 'XX', unpack(renewed)) end
end

local function renew_leases(root, ask)
  local now, stop = now_ms(), {}
  local lease_ends = int(now + ask.lease_ms)
  -- A score in the future is not the start of an absence, so reap ignores it until then.
  if ask.without_listener_ms then
    redis.call('ZADD', claiming_workers_key(root), 'XX', int(now + ask.without_listener_ms), ask.worker)
  end
  for first = 1, #ask.held, LEASES_PER_CALL do
    renew(root, ask.held, first, math.min(#ask.held, first + LEASES_PER_CALL - 1), lease_ends, stop)
  end
  return stop
end

register('renew_leases', renew_leases)
