-- delete_turns: delete some of the turns of a deleted session, the last ones first.
-- ASK      account, id
-- RETURNS  1 while there is more, 0 when nothing is left
-- ATOMIC   because two callers may do it at once, and what is noted as left must be what is there.

local CHUNKS_AT_ONCE = 32
local BYTES_AT_ONCE = 4 * 1024 * 1024

local function delete_generation(root, account, id)
  local idempotency = redis.call('HGET', generation_key(root, account, id), 'idempotency')
  delete_idempotency_record(root, account, idempotency, 'generation', id)
  redis.call('DEL', generation_key(root, account, id), events_key(root, account, id))
  delete_dead_letter(root, account, id)
end

-- Deletes turns of a chunk, the last ones first, until bytes_max are deleted. Returns how many bytes were, and whether
-- none is left. Records pass through Lua one by one: a chunk may hold many MB, and copying them all takes long.
local function delete_chunk(root, account, session, chunk, bytes_max)
  local key, first = turns_key(root, account, session, int(chunk)), chunk * TURNS_PER_CHUNK
  local bytes, deleted_fields = 0, {}
  for turn = first + TURNS_PER_CHUNK - 1, first, -1 do
    local user_field, assistant_field = int(turn) .. ':u', int(turn) .. ':a'
    local record = redis.call('HGET', key, user_field)
    if record then
      delete_generation(root, account, cmsgpack.unpack(record).generation)
      bytes = bytes + #record + redis.call('HSTRLEN', key, assistant_field)
      table.insert(deleted_fields, user_field)
      table.insert(deleted_fields, assistant_field)
    end
    if bytes >= bytes_max and turn > first then
      redis.call('HDEL', key, unpack(deleted_fields))
      return bytes, false
    end
  end
  redis.call('DEL', key)
  return bytes, true
end

local function delete_turns(root, ask)
  local key, name = turns_to_delete_key(root), member(ask.account, ask.id)
  local last = tonumber(redis.call('HGET', key, name) or -1)
  local first, bytes = last - CHUNKS_AT_ONCE + 1, 0
  while last >= math.max(0, first) and bytes < BYTES_AT_ONCE do
    local deleted_bytes, is_chunk_deleted = delete_chunk(root, ask.account, ask.id, last, BYTES_AT_ONCE - bytes)
    bytes = bytes + deleted_bytes
    if not is_chunk_deleted then break end
    last = last - 1
  end
  if last < 0 then
    redis.call('HDEL', key, name)
    return 0
  end
  redis.call('HSET', key, name, int(last))
  return 1
end

register('delete_turns', delete_turns)
