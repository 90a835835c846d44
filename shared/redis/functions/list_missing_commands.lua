-- list_missing_commands: list the commands of Pollux that this connection's user may not send.
-- ASK      nothing
-- RETURNS  {command...}, in lower case; only 'set' where not even that is allowed, since nothing else is tried then
-- ATOMIC   because nobody else may use the key that commands are tried on, which is gone at the end.
-- Redis checks permissions first, so commands for other types fail on a text key and change nothing.

local COMMANDS_TRIED = {
  {'append', ''}, {'exists'}, {'get'}, {'getrange', 0, 0}, {'hdel', 'f'}, {'hexists', 'f'}, {'hget', 'f'},
  {'hgetall'}, {'hstrlen', 'f'}, {'hincrby', 'f', 1}, {'hkeys'}, {'hlen'}, {'hmget', 'f'}, {'hset', 'f', 1},
  {'hsetnx', 'f', 1}, {'incrby', 1}, {'llen'}, {'lpush', 1}, {'lrange', 0, 0}, {'ltrim', 0, 0}, {'mget'},
  {'persist'}, {'pexpire', 1000}, {'pttl'}, {'rpop'}, {'rpush', 1}, {'sadd', 'm'}, {'scard'}, {'setrange', 0, ''},
  {'sismember', 'm'}, {'smembers'}, {'sscan', 0}, {'srem', 'm'}, {'strlen'},
  {'xadd', '*', 'f', 1}, {'xdel', '1-1'}, {'xrange', '-', '+'}, {'xrevrange', '+', '-'}, {'xtrim', 'MAXLEN', 1},
  {'zadd', 1, 'm'}, {'zcard'}, {'zcount', 0, 1}, {'zincrby', 1, 'm'}, {'zmscore', 'm'}, {'zpopmin'}, {'zrange', 0, 0},
  {'zrank', 'm'}, {'zrem', 'm'}, {'zremrangebyrank', 0, 0}, {'zremrangebyscore', 0, 1}, {'zscore', 'm'}, {'unlink'},
  {'del'}, {'setrange', 0, ''},
}

-- As Redis 7.0 and other versions word it.
local function is_refused(...)
  local reply = redis.pcall(...)
  local why = type(reply) == 'table' and reply.err or ''
  return string.find(why, "can't run this command", 1, true) or string.find(why, 'permission', 1, true)
end

local function list_missing_commands(root)
  local key, lacking = permission_probe_key(root), {}
  if is_refused('time') then table.insert(lacking, 'time') end
  if is_refused('info', 'server') then table.insert(lacking, 'info') end
  if is_refused('set', key, '', 'PX', 1000) then
    table.insert(lacking, 'set')
    return lacking
  end
  for _, tried in ipairs(COMMANDS_TRIED) do
    if is_refused(tried[1], key, unpack(tried, 2)) then table.insert(lacking, tried[1]) end
  end
  return lacking
end

register('list_missing_commands', list_missing_commands)
