-- read_ended: return the items of a chunk that have ended and are not packed yet.
-- ASK      account, batch, chunk; if given: only (the indexes of the items)
-- RETURNS  {index, seq, run, state, captured, answer (the assistant message's record, or '')}... as one list. Beyond
--          ANSWER_BYTES in all an answer is nil: its item is to be read by another call
-- ATOMIC   because a chunk may be packed meanwhile: then it returns nothing.
-- Answers may be large, and the server serves nobody while it copies them.

local ANSWER_BYTES = 262144

local function wanted_of(root, ask)
  local key = batch_chunk_key(root, ask.account, ask.batch, int(ask.chunk))
  if not ask.only then return redis.call('HGETALL', key) end
  local flat, names = {}, {}
  for i, index in ipairs(ask.only) do names[i] = int(index) end
  for i, value in ipairs(redis.call('HMGET', key, unpack(names))) do
    flat[2 * i - 1], flat[2 * i] = names[i], value or ''
  end
  return flat
end

local function read_answer(root, account, id)
  local answer = redis.pcall('HGET', turns_key(root, account, id, '0'), '1:a')
  return type(answer) == 'string' and answer or ''
end

local function read_ended(root, ask)
  local flat, found, left = wanted_of(root, ask), {}, ANSWER_BYTES
  for i = 1, #flat, 2 do
    local seq, run, letter, captured = string.match(flat[i + 1], '^(%d+) (%d+) (%a) (%d+)$')
    if seq then
      local id = ask.batch .. '-' .. flat[i] .. (run == '1' and '' or '-' .. run)
      local answer = left > 0 and read_answer(root, ask.account, id)
      for _, value in ipairs({tonumber(flat[i]), tonumber(seq), tonumber(run), batches.STATES[letter],
        tonumber(captured), answer}) do
        found[#found + 1] = value
      end
      left = left - (answer and #answer or 0)
    end
  end
  return found
end

register('read_ended', read_ended, true)
