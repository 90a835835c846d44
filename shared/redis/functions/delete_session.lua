-- delete_session: end what still runs in a session, and delete the session.
-- ASK      account, id, keep, channels
-- RETURNS  'deleted' (also when repeated before all of it is deleted) or 'unknown'
-- ATOMIC   because no turn may be accepted, claimed or settled in a session that is half deleted.
-- The text so far of an answer is charged, as by a cancel; the rest of its hold is given back, and the ledger stays.
-- The turns are deleted by `delete_turns`, which the caller sends next, or a chore if the caller dies. The session's
-- files are deleted by that chore, by their names.

local function delete_session(root, ask)
  local account, session = ask.account, session_key(root, ask.account, ask.id)
  local turns, idempotency, bytes, side = unpack(redis.call('HMGET', session, 'turns', 'idempotency', 'bytes', 'side'))
  local name = member(account, ask.id)
  if not turns then return redis.call('HEXISTS', turns_to_delete_key(root), name) == 1 and 'deleted' or 'unknown' end
  local running = redis.call('ZRANGE', waiting_key(root, account, ask.id), 0, -1)
  table.insert(running, redis.call('HGET', session, 'head') or nil)
  -- Types are checked before the first write: a session that is half deleted cannot be deleted again.
  redis.call('ZCARD', files_to_delete_key(root))
  redis.call('HLEN', turns_to_delete_key(root))
  redis.call('ZCARD', sessions_key(root, account))
  delete_idempotency_record(root, account, idempotency, 'session', ask.id)
  storage.add(root, account, side, -(tonumber(bytes) or 0))
  redis.call('DEL', session, waiting_key(root, account, ask.id))
  redis.call('ZREM', sessions_key(root, account), ask.id)
  redis.call('ZADD', files_to_delete_key(root), now_ms(), name)
  redis.call('HSET', turns_to_delete_key(root), name, int(math.floor(tonumber(turns) / TURNS_PER_CHUNK)))
  for _, id in ipairs(running) do
    damage.run_guarded(root, member(account, id), damage.end_checked, ask.keep, ask.channels)
  end
  return 'deleted'
end

register('delete_session', delete_session)
