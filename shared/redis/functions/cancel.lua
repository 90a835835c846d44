-- cancel: end what waits, ask the worker to end what runs.
-- ASK      account, id, keep, channels (the prefix of the workers' channels)
-- RETURNS  {'unknown'}, {'finished', stage}, {'cancelled', microcredits given back} or {'pending'}
-- ATOMIC   because a generation must not be claimed between the look and the end.

local function cancel(root, ask)
  local record = load(root, ask.account, ask.id)
  if not record then return {'unknown'} end
  if is_final(record) then return {'finished', record.stage} end
  local effect, refunded = cancel_one(root, ask.account, ask.id, record, ask.keep, ask.channels)
  return {effect, refunded}
end

register('cancel', cancel)
