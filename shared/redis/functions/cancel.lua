-- cancel: end a generation that waits, or ask the worker to stop one that runs.
-- ASK      account, id, keep, channels (the prefix of the workers' channels), call (the request's own id); if so:
--          is_abandoned (no worker is alive: an attempt whose lease has expired is ended as well)
-- RETURNS  {'unknown'}, {'finished', stage}, {'cancelled', microcredits given back} or {'pending'}
-- ATOMIC   because a generation must not be claimed between the check and the end.
-- The record keeps what the last cancel did, and for which call: a call that is repeated because its reply was lost
-- gets the same answer, and a later one learns that the generation had ended.

local function cancel(root, ask)
  local record, is_damaged = damage.load_sound(root, ask.account, ask.id)
  if not record then return is_damaged and {'finished', 'failed'} or {'unknown'} end
  if is_final(record) then
    local call, effect, refunded = string.match(record.cancelled_by or '', '^(%S+) (%a+) (%d+)$')
    if call == ask.call then return {effect, effect == 'cancelled' and tonumber(refunded) or nil} end
    return {'finished', record.stage}
  end
  local is_done, effect, refunded = pcall(cancel_generation, root, ask.account, ask.id, record, ask.keep, ask.channels,
    ask.is_abandoned)
  if not is_done then
    damage.set_aside_or_raise(root, ask.account, ask.id, effect)
    return {'finished', 'failed'}
  end
  redis.call('HSET', generation_key(root, ask.account, ask.id), 'cancelled_by',
    ask.call .. ' ' .. effect .. ' ' .. int(refunded or 0))
  return {effect, refunded}
end

register('cancel', cancel)
