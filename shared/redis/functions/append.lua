-- append: store what an attempt has produced since its last append.
-- ASK      account, id, attempt, seq (of the first event), events (JSON each); if any: text, text_bytes_kept (of the
--          text so far; the rest is dropped first), stage, progress, bill (what would be due if the attempt ended now),
--          routed (the seq of the event that names the chosen model), rounds (that have finished: entries, and what
--          stands after them: text_bytes, text_points, bill)
-- RETURNS  'appended', 'cancel' (appended, and the worker is asked to stop) or 'refused'
-- ATOMIC   because the text, the events, the rounds and the stage belong to one moment of the answer, and only the
--          holder of the current token may write them. A seq that is there already counts as appended.

local function append(root, ask)
  local key = generation_key(root, ask.account, ask.id)
  local record = redis.call('HMGET', key, 'attempt', 'seq', 'stage', 'cancel', 'finer_stage')
  if tonumber(record[1]) ~= ask.attempt then return 'refused' end
  if not redis.call('ZSCORE', leases_key(root), member(ask.account, ask.id)) then return 'refused' end
  if ask.seq > tonumber(record[2] or 0) then append_produced(root, ask, key, record[3], record[5]) end
  return record[4] and 'cancel' or 'appended'
end

register('append', append)
