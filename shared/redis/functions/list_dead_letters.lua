-- list_dead_letters: return a page of dead letters, the newest first, without the message.
-- ASK      count, keep; if any: after_ms and after (time and name of the last letter of the page before), since_ms and
--          until_ms (both inclusive)
-- RETURNS  {{died, account, id, field, value...}...}; a letter that was deleted before its time has no fields
-- ATOMIC   because the list is trimmed as it is read, and a page shows one moment.
-- The order is total: by time, and within one millisecond by name. So a page continues correctly even after a letter
-- that has left the list meanwhile.

local LISTED_FIELDS = {
  'session', 'turn', 'lane', 'model', 'chosen', 'failure', 'attempts', 'attempt', 'accepted', 'hold', 'key',
}

-- Compares bytes, as a sorted set does; Lua's own order depends on the locale.
local function is_before(one, other)
  for i = 1, math.min(#one, #other) do
    local one_byte, other_byte = string.byte(one, i), string.byte(other, i)
    if one_byte ~= other_byte then return one_byte < other_byte end
  end
  return #one < #other
end

-- Returns how many letters come before the page, the newest first.
local function first_rank(root, ask)
  local key = dead_letters_key(root)
  local later_count = ask.until_ms and redis.call('ZCOUNT', key, '(' .. int(ask.until_ms), '+inf') or 0
  if not ask.after then return later_count end
  local at = int(ask.after_ms)
  local rank = redis.call('ZCOUNT', key, '(' .. at, '+inf')
  for _, name in ipairs(redis.call('ZRANGE', key, at, at, 'BYSCORE')) do
    if not is_before(name, ask.after) then rank = rank + 1 end
  end
  return math.max(rank, later_count)
end

local function describe_letter(root, name, died)
  local account, id = split(name)
  local described = {died, account, id}
  local values = redis.call('HMGET', dead_letter_key(root, account, id), unpack(LISTED_FIELDS))
  for i, field in ipairs(LISTED_FIELDS) do
    if values[i] then
      table.insert(described, field)
      table.insert(described, values[i])
    end
  end
  return described
end

local function list_dead_letters(root, ask)
  local now = now_ms()
  trim_dead_letters(root, now, ask.keep)
  local first = first_rank(root, ask)
  local names = redis.call('ZRANGE', dead_letters_key(root), first, first + ask.count - 1, 'REV', 'WITHSCORES')
  local since, page = math.max(ask.since_ms or 0, now - ask.keep[3]), {}
  for i = 1, #names, 2 do
    if tonumber(names[i + 1]) < since then break end
    table.insert(page, describe_letter(root, names[i], names[i + 1]))
  end
  return page
end

register('list_dead_letters', list_dead_letters)
