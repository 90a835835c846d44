-- Shared: the next turn of a session becomes ready.

local NEXT_TURNS_TRIED = 1000

-- A turn of a session has ended. If it was the head, the next waiting turn becomes the head and ready; if it was
-- waiting, it only leaves the queue. A next turn whose records are damaged is set aside, and the one after it is tried.
local function advance_session(root, account, id, session, head)
  local key = session_key(root, account, session)
  local waiting = waiting_key(root, account, session)
  if head ~= id then
    redis.call('ZREM', waiting, id)
    return
  end
  for _ = 1, NEXT_TURNS_TRIED do
    local next_turn = redis.pcall('ZPOPMIN', waiting)[1]
    if not next_turn then
      redis.call('HDEL', key, 'head', 'pending')
      return
    end
    redis.call('HSET', key, 'head', next_turn)
    local record = redis.pcall('HMGET', generation_key(root, account, next_turn), 'lane', 'number', 'wire')
    local is_made, problem = pcall(make_ready, root, account, next_turn, unpack(record))
    if is_made or damage.is_lane_wrong(root, record[1]) then return end
    damage.drop_next_turn(root, account, next_turn, problem)
  end
end
