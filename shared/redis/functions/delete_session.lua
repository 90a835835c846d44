-- delete_session: end what still runs in a session and forget all of it.
-- ASK      account, id, keep, channels
-- RETURNS  'deleted' or 'unknown'
-- ATOMIC   because no turn may be accepted, claimed or settled into a session that is half gone.
-- The credits of what ran are given back; the books stay. Files of the session are left to a chore, by name.

-- An old key may have been used again since, for what is not of this session.
local function forget_receipt(root, account, idempotency, field, id)
  if not idempotency then return end
  local receipt = idempotency_key(root, account, idempotency)
  if redis.call('HGET', receipt, field) == id then redis.call('DEL', receipt) end
end

local function forget(root, account, id)
  local idempotency = redis.call('HGET', generation_key(root, account, id), 'idempotency')
  forget_receipt(root, account, idempotency, 'generation', id)
  redis.call('DEL', generation_key(root, account, id), events_key(root, account, id))
  drop_letter(root, account, id)
end

local function delete_session(root, ask)
  local account, session = ask.account, session_key(root, ask.account, ask.id)
  local turns, idempotency = unpack(redis.call('HMGET', session, 'turns', 'idempotency'))
  if not turns then return 'unknown' end
  local running = redis.call('ZRANGE', waiting_key(root, account, ask.id), 0, -1)
  table.insert(running, redis.call('HGET', session, 'head') or nil)
  forget_receipt(root, account, idempotency, 'session', ask.id)
  redis.call('DEL', session, waiting_key(root, account, ask.id))
  redis.call('ZREM', sessions_key(root, account), ask.id)
  redis.call('ZADD', forgotten_key(root), now_ms(), member(account, ask.id))
  for _, id in ipairs(running) do
    local record = load(root, account, id)
    if record.worker then redis.call('PUBLISH', ask.channels .. record.worker, member(account, id)) end
    end_from_outside(root, account, id, record, 'cancelled', CANCELLED, ask.keep)
  end
  for chunk = 0, math.floor(tonumber(turns) / TURNS_PER_CHUNK) do
    local key = turns_key(root, account, ask.id, int(chunk))
    local flat = redis.call('HGETALL', key)
    for i = 1, #flat, 2 do
      if string.sub(flat[i], -1) == 'u' then forget(root, account, cmsgpack.unpack(flat[i + 1]).generation) end
    end
    redis.call('DEL', key)
  end
  return 'deleted'
end

register('delete_session', delete_session)
