-- resume: end the wait of a suspended generation, which is ready at once.
-- ASK      account, id
-- RETURNS  'resumed', 'not_suspended' (also when repeated, and once its wait has ended by itself) or 'unknown'
-- ATOMIC   because its wait must not end by itself, nor the generation, between the check and the write.
-- It goes to the front of its account's turns, since it keeps its number. This is no deferral, death or drain.

local function end_wait(root, account, id, record)
  unpark(root, account, id, record)
  stages.end_wait(root, account, id, record, now_ms())
end

local function resume(root, ask)
  local record, is_damaged = damage.load_sound(root, ask.account, ask.id)
  if not record then return is_damaged and 'not_suspended' or 'unknown' end
  local name = member(ask.account, ask.id)
  -- The attempt may be about to suspend itself for the very decision: it then waits no longer.
  if record.worker then redis.call('HSET', generation_key(root, ask.account, ask.id), 'resumed', record.attempt) end
  if not (stages.waits_until(record) and redis.call('ZSCORE', deferred_key(root), name)) then return 'not_suspended' end
  local is_done, problem = pcall(end_wait, root, ask.account, ask.id, record)
  if is_done then return 'resumed' end
  damage.set_aside_or_raise(root, ask.account, ask.id, problem)
  return 'not_suspended'
end

register('resume', resume)
