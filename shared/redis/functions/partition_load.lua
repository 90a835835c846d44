-- partition_load: return how much waits in this partition, how much has ended so far, and how full the server is.
-- ASK      nothing
-- RETURNS  {now ms, unfinished, running, ended (ever), bytes used, most bytes (0: unlimited)}
-- ATOMIC   no need; it is one round trip instead of four.

local function partition_load(root)
  local memory = redis.call('INFO', 'memory')
  return {
    now_ms(),
    redis.call('ZCARD', deadlines_key(root)),
    redis.call('ZCARD', leases_key(root)),
    tonumber(redis.call('HGET', clocks_key(root), 'ended') or 0),
    tonumber(string.match(memory, 'used_memory:(%d+)') or 0),
    tonumber(string.match(memory, 'maxmemory:(%d+)') or 0),
  }
end

register('partition_load', partition_load, true)
