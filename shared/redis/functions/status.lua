-- status: all that a caller may know of a generation, in one look.
-- ASK      account, id
-- RETURNS  {} when there is none, else {unfinished of the account, rank, running, crowd, body, user
--          message, field, value...}; crowd counts the accounts that wait in its lane;
--          body is the text so far, or the assistant message's record once it has ended
-- ATOMIC   because the state and the text must be of the same moment.

local function status(root, ask)
  local flat = redis.call('HGETALL', generation_key(root, ask.account, ask.id))
  if #flat == 0 then return {} end
  local record = {}
  for i = 1, #flat, 2 do record[flat[i]] = flat[i + 1] end
  local rank, running, crowd, body = -1, 0, 0, false
  local turns = turns_of(root, ask.account, record.session, record.turn)
  local user = redis.call('HGET', turns, record.turn .. ':u')
  if is_final(record) then
    body = redis.call('HGET', turns, record.turn .. ':a')
  else
    body = redis.call('GET', text_key(root, ask.account, ask.id))
    rank = redis.call('ZRANK', unfinished_key(root, ask.account, record.lane), ask.id) or -1
    crowd = redis.call('ZCARD', lane_key(root, record.lane))
    running = tonumber(redis.call('HGET', books_key(root, ask.account), 'running_' .. record.lane) or 0)
  end
  local answer = {unfinished_of(root, ask.account), rank, running, crowd, body, user}
  for i = 1, #flat do answer[i + 6] = flat[i] end
  return answer
end

register('status', status, true)
