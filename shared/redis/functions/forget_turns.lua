-- forget_turns: forget some of what the turns of a deleted session left, the last ones first.
-- ASK      account, id
-- RETURNS  1 while there is more, 0 when nothing is left
-- ATOMIC   because two may be at it, and what is noted as left must be what is there.
-- So much at a time: the server serves nobody meanwhile.

local CHUNKS_AT_ONCE = 32
local BYTES_AT_ONCE = 4 * 1024 * 1024

local function forget(root, account, id)
  local idempotency = redis.call('HGET', generation_key(root, account, id), 'idempotency')
  forget_receipt(root, account, idempotency, 'generation', id)
  redis.call('DEL', generation_key(root, account, id), events_key(root, account, id))
  drop_letter(root, account, id)
end

-- Returns how much there was.
local function forget_chunk(root, account, session, chunk)
  local key = turns_key(root, account, session, int(chunk))
  local flat, bytes = redis.call('HGETALL', key), 0
  for i = 1, #flat, 2 do
    bytes = bytes + #flat[i + 1]
    if string.sub(flat[i], -1) == 'u' then forget(root, account, cmsgpack.unpack(flat[i + 1]).generation) end
  end
  redis.call('DEL', key)
  return bytes
end

local function forget_turns(root, ask)
  local key, name = forgetting_key(root), member(ask.account, ask.id)
  local last = tonumber(redis.call('HGET', key, name) or -1)
  local first, bytes = last - CHUNKS_AT_ONCE + 1, 0
  while last >= math.max(0, first) and bytes < BYTES_AT_ONCE do
    bytes = bytes + forget_chunk(root, ask.account, ask.id, last)
    last = last - 1
  end
  if last < 0 then
    redis.call('HDEL', key, name)
    return 0
  end
  redis.call('HSET', key, name, int(last))
  return 1
end

register('forget_turns', forget_turns)
