-- take_ended_chunks: give a worker chunks to pack, whose items have all ended.
-- ASK      count, lease_ms (after which another worker may take them)
-- RETURNS  {account:batch:chunk...}
-- ATOMIC   because two workers would pack the same chunk: the second one's work would be lost.

local function take_ended_chunks(root, ask)
  local key, now = batch_chunks_to_pack_key(root), now_ms()
  local names = redis.call('ZRANGE', key, '-inf', int(now), 'BYSCORE', 'LIMIT', 0, int(ask.count))
  for _, name in ipairs(names) do redis.call('ZADD', key, int(now + ask.lease_ms), name) end
  return names
end

register('take_ended_chunks', take_ended_chunks)
