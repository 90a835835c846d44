-- list_deliveries: list an account's deliveries, the newest first.
-- ASK      account, offset, count; if given: state
-- RETURNS  {how many there are in all (of that state), {{id, fields of its hash...}...}}
-- ATOMIC   no need; it is one round trip, and reads the states of all where one is asked for.

local function list_deliveries(root, ask)
  local found, total = {}, 0
  for _, id in ipairs(redis.call('ZRANGE', deliveries_key(root, ask.account), 0, -1, 'REV')) do
    local state = redis.call('HGET', delivery_key(root, ask.account, id), 'state')
    if state and (not ask.state or state == ask.state) then
      total = total + 1
      if total > ask.offset and #found < ask.count then found[#found + 1] = id end
    end
  end
  for i, id in ipairs(found) do found[i] = {id, redis.call('HGETALL', delivery_key(root, ask.account, id))} end
  return {total, found}
end

register('list_deliveries', list_deliveries, true)
