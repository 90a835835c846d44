-- read_ended: return the items of a chunk that have ended and are not packed yet.
-- ASK      account, batch, chunk
-- RETURNS  {index, seq, run, state, captured, answer (the assistant message's record, or '')}... as one list
-- ATOMIC   because a chunk may be packed meanwhile: then it returns nothing.

local function read_ended(root, ask)
  local flat = redis.call('HGETALL', batch_chunk_key(root, ask.account, ask.batch, int(ask.chunk)))
  local found = {}
  for i = 1, #flat, 2 do
    local seq, run, letter, captured = string.match(flat[i + 1], '^(%d+) (%d+) (%a) (%d+)$')
    if seq then
      local id = ask.batch .. '-' .. flat[i] .. (run == '1' and '' or '-' .. run)
      local answer = redis.pcall('HGET', turns_key(root, ask.account, id, '0'), '1:a')
      if type(answer) ~= 'string' then answer = '' end
      for _, value in ipairs({tonumber(flat[i]), tonumber(seq), tonumber(run), batches.STATES[letter],
        tonumber(captured), answer}) do
        found[#found + 1] = value
      end
    end
  end
  return found
end

register('read_ended', read_ended, true)
