-- expire: end one generation whose deadline has passed, for a caller that reads it before a worker reaps it.
-- ASK      account, id, keep
-- RETURNS  'ended' (also when it had ended, or is unknown) or 'early'
-- ATOMIC   because it must not be claimed or settled between the check of its deadline and its end.
-- A reap does the same for all that are late. A worker that still runs the generation is refused from now on.

local function expire(root, ask)
  local record = damage.load_sound(root, ask.account, ask.id)
  if not record or is_final(record) then return 'ended' end
  if tonumber(record.deadline) > now_ms() then return 'early' end
  local is_done, problem = pcall(end_without_worker, root, ask.account, ask.id, record, 'failed', EXPIRED, ask.keep)
  if not is_done then damage.set_aside_or_raise(root, ask.account, ask.id, problem) end
  return 'ended'
end

register('expire', expire)
