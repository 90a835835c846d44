-- Shared: claims whose reply was lost. Joined after damage.lua.
--
-- A claim is never retried, because its reply may have been lost after it took turns. Instead the worker's next claim
-- lists the numbers of the claims that got no reply, and the turns that those took are queued again before anything
-- else is taken. Example: claim 17 takes turns x and y, and the connection breaks. Claim 18 comes with unacknowledged =
-- {17}; the records of x and y name this worker and claim 17, so both go back to the front of their accounts' turns,
-- and claim 18 may take them.

local function requeue_one(root, account, id, ask, is_unacknowledged)
  local worker, number = unpack(redis.call('HMGET', generation_key(root, account, id), 'worker', 'claim'))
  if worker ~= ask.worker or not is_unacknowledged[number] then return end
  local record = load_generation(root, account, id)
  damage.check(record)
  if record.cancel then
    end_without_worker(root, account, id, record, 'cancelled', CANCELLED, ask.keep)
  else
    requeue(root, account, id, record, 'UNHEARD')
  end
end

local function requeue_unacknowledged(root, ask)
  local is_unacknowledged = {}
  for _, number in ipairs(ask.unacknowledged) do is_unacknowledged[tostring(number)] = true end
  for _, name in ipairs(redis.call('ZRANGE', leases_key(root), 0, -1)) do
    damage.run_guarded(root, name, requeue_one, ask, is_unacknowledged)
  end
end
