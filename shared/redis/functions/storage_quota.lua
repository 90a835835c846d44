-- Shared: how many bytes of content an account stores, for its quota.
--
-- A session's `bytes` are the bytes of its own texts and of its turns' records. The account's totals hold their sum in
-- two parts: each session is counted on one `side` ('0' where the field is missing), in the sum `stored_<side>`. So a
-- recount runs while sessions change: it moves sessions to the other side one by one, each with the bytes found in it.
-- What is then left in the old sum belonged to sessions that no longer exist, and is dropped.
-- Example: stored_0 is 500, but the sessions on side 0 have 300 and 100 bytes: an older process deleted a session of
-- 100 bytes and did not subtract them. Both move, stored_1 becomes 400, and the 100 left in stored_0 are dropped.

-- Batches have a sum of their own, `stored_batches`, which their own functions keep exact.

local storage = {}

storage.RECOUNT_MS, storage.RECOUNT_REFUSED_MS = 86400000, 600000

function storage.sum_field(side) return side == '1' and 'stored_1' or 'stored_0' end

-- The sum never falls below zero: an older process may have stored without counting what this one deletes.
function storage.add(root, account, side, bytes)
  if bytes == 0 then return end
  local totals, sum = account_totals_key(root, account), storage.sum_field(side)
  if redis.call('HINCRBY', totals, sum, int(bytes)) < 0 then redis.call('HSET', totals, sum, 0) end
end

-- Returns which quota one more record would exceed and how much of it is used; nil if it would exceed none.
function storage.find_exceeded_quota(root, account, stored_0, stored_1, stored_batches, sessions_max, bytes, bytes_max)
  local count = sessions_max and redis.call('ZCARD', sessions_key(root, account)) or 0
  if sessions_max and count >= sessions_max then return 'sessions', count end
  local sum = (stored_0 or 0) + (stored_1 or 0) + (stored_batches or 0)
  if sum + bytes > bytes_max then return 'stored_bytes', sum end
end

-- Queues the account for a recount, which a chore does, never a request. An account without any session has nothing to
-- count: it is marked as counted at once.
function storage.schedule_recount(root, account, counted_at, every_ms, now)
  local at = tonumber(counted_at)
  if at and math.abs(now - at) < every_ms then return end
  if not at and redis.call('ZCARD', sessions_key(root, account)) == 0 then
    redis.call('HSET', account_totals_key(root, account), 'counted_at', now)
  else
    redis.call('ZADD', recount_key(root), 'NX', now, account)
  end
end

-- Counts bytes that a session stores more, or fewer.
function storage.add_to_session(root, account, session, added_bytes)
  local name = session_key(root, account, session)
  local bytes, side = unpack(redis.call('HMGET', name, 'bytes', 'side'))
  redis.call('HSET', name, 'bytes', math.max(0, (tonumber(bytes) or 0) + added_bytes))
  storage.add(root, account, side, added_bytes)
end
