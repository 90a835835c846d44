-- What the functions share beside the preamble: how many bytes of content an account stores, for its quota.
--
-- A session's record has the bytes of its texts and of its turns' records (`bytes`). The account's books have their sum, in two parts: each session is counted on one `side` ('0' where the
-- field is missing), in the sum `stored_<side>`. So that all can be counted again while they change, sessions move to the
-- other side one by one, each with what it is found to have. What is left behind then was of sessions that are gone.
-- Example: stored_0 is 500, but the sessions on side 0 have 300 and 100: an older process deleted one of 100 and did
-- not subtract it. They move, stored_1 becomes 400, and the 100 that are left in stored_0 are dropped.

local storage = {}

storage.RECOUNT_MS, storage.RECOUNT_REFUSED_MS = 86400000, 600000

function storage.sum_field(side) return side == '1' and 'stored_1' or 'stored_0' end

-- Never below zero: what an older process stored was not counted, and may be deleted by this one.
function storage.add(root, account, side, bytes)
  if bytes == 0 then return end
  local totals, sum = account_totals_key(root, account), storage.sum_field(side)
  if redis.call('HINCRBY', totals, sum, int(bytes)) < 0 then redis.call('HSET', totals, sum, 0) end
end

-- Which quota one more record would pass, and how much there is of it; nil if none.
function storage.find_exceeded_quota(root, account, stored_0, stored_1, sessions_max, bytes, bytes_max)
  local count = sessions_max and redis.call('ZCARD', sessions_key(root, account)) or 0
  if sessions_max and count >= sessions_max then return 'sessions', count end
  local sum = (stored_0 or 0) + (stored_1 or 0)
  if sum + bytes > bytes_max then return 'stored_bytes', sum end
end

-- Notes that the account is to be counted again: by a chore, never here. One without any session is counted by that.
function storage.schedule_recount(root, account, counted_at, every_ms, now)
  local at = tonumber(counted_at)
  if at and math.abs(now - at) < every_ms then return end
  if not at and redis.call('ZCARD', sessions_key(root, account)) == 0 then
    redis.call('HSET', account_totals_key(root, account), 'counted_at', now)
  else
    redis.call('ZADD', recount_key(root), 'NX', now, account)
  end
end

-- Writes a record of a turn, also in place of one that is there, and counts it.
function storage.write_turn_record(root, account, session, key, field, record)
  local name = session_key(root, account, session)
  local bytes, side = unpack(redis.call('HMGET', name, 'bytes', 'side'))
  local more = #record - redis.call('HSTRLEN', key, field)
  redis.call('HSET', key, field, record)
  redis.call('HSET', name, 'bytes', math.max(0, (tonumber(bytes) or 0) + more))
  storage.add(root, account, side, more)
end
