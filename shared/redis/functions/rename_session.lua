-- rename_session: give a session another name.
-- ASK      account, id, name
-- RETURNS  1, or 0 when there is no such session
-- ATOMIC   because a name must not bring a deleted session back.

local function rename_session(root, ask)
  local key = session_key(root, ask.account, ask.id)
  if redis.call('EXISTS', key) == 0 then return 0 end
  redis.call('HSET', key, 'name', ask.name)
  return 1
end

register('rename_session', rename_session)
