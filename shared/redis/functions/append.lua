-- append: store what an attempt has produced since its last append.
-- ASK      account, id, attempt, seq (of the first event), events (JSON each); if any: text, stage, progress, bill
--          (what would be due if the attempt ended now), routed (the seq of the event that names the chosen model)
-- RETURNS  'appended', 'cancel' (appended, and the worker is asked to stop) or 'refused'
-- ATOMIC   because the text, the events and the stage belong to one moment of the answer, and only the holder of the
--          current token may write them. A seq that is there already counts as appended.

local function append(root, ask)
  local key = generation_key(root, ask.account, ask.id)
  local record = redis.call('HMGET', key, 'attempt', 'seq', 'stage', 'cancel')
  local seq = tonumber(record[2] or 0)
  if tonumber(record[1]) ~= ask.attempt then return 'refused' end
  if not redis.call('ZSCORE', leases_key(root), member(ask.account, ask.id)) then return 'refused' end
  local answer = record[4] and 'cancel' or 'appended'
  if ask.seq <= seq then return answer end
  if ask.stage and ask.stage ~= record[3] then
    check_transition({stage = record[3]}, ask.stage)
    redis.call('HSET', key, 'stage', ask.stage)
  end
  for i, event in ipairs(ask.events) do
    append_event(root, ask.account, ask.id, ask.attempt, ask.seq + i - 1, event)
  end
  if ask.text then redis.call('APPEND', text_key(root, ask.account, ask.id), ask.text) end
  local fields = {'seq', int(ask.seq + #ask.events - 1)}
  if ask.progress then fields[3], fields[4] = 'progress', int(ask.progress) end
  if ask.bill then fields[#fields + 1], fields[#fields + 2] = 'bill', ask.bill end
  if ask.routed then fields[#fields + 1], fields[#fields + 2] = 'routed', int(ask.attempt) .. '-' .. int(ask.routed) end
  redis.call('HSET', key, unpack(fields))
  return answer
end

register('append', append)
