-- expire: end one generation whose deadline has passed, for whoever looks at it before a worker reaps it.
-- ASK      account, id, keep
-- RETURNS  'ended' (also when it was, or is unknown) or 'early'
-- ATOMIC   because it must not be claimed or settled between the look at its deadline and its end.
-- It is what a reap does to all that are late; a worker that still runs it is refused from here on.

local function expire(root, ask)
  local record = load_generation(root, ask.account, ask.id)
  if not record then return 'ended' end
  local fault = damage.find_fault(record)
  if fault then
    damage.set_aside(root, ask.account, ask.id, fault)
    return 'ended'
  end
  if is_final(record) then return 'ended' end
  if tonumber(record.deadline) > now_ms() then return 'early' end
  local is_done, problem = pcall(end_without_worker, root, ask.account, ask.id, record, 'failed', EXPIRED, ask.keep)
  if not is_done then damage.set_aside_or_raise(root, ask.account, ask.id, problem) end
  return 'ended'
end

register('expire', expire)
