-- rename_session: give a session another name.
-- ASK      account, id, name
-- RETURNS  1, or 0 when there is no such session
-- ATOMIC   because a rename must not recreate a deleted session.

local function rename_session(root, ask)
  local key = session_key(root, ask.account, ask.id)
  local turns, bytes, side = unpack(redis.call('HMGET', key, 'turns', 'bytes', 'side'))
  if not turns then return 0 end
  local added_bytes = #ask.name - redis.call('HSTRLEN', key, 'name')
  storage.add(root, ask.account, side, added_bytes)
  redis.call('HSET', key, 'name', ask.name, 'bytes', math.max(0, (tonumber(bytes) or 0) + added_bytes))
  return 1
end

register('rename_session', rename_session)
