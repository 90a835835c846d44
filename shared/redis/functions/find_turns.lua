-- find_turns: return a session's record, and how many of the requested turns may be read at once.
-- ASK      account, id, last (the last requested turn), first or else count (the first turn, or how many up to the
--          last), bytes_max
-- RETURNS  {} when there is no such session, else {first, last, fitting, name, created, active, companion, metadata,
--          turns}: the requested turns as far as they exist, and the last of them up to which the records have at most
--          bytes_max; at least one turn fits
-- ATOMIC   because the turns must be those of the session as it is returned here.
-- Records are only measured here and then read by plain commands, because what passes through Lua is copied several
-- times. Example: turns 1 to 3 have 100, 200 and 900 bytes. With bytes_max 500 the turns 1 and 2 fit; from turn 3 on,
-- turn 3 alone does.

local FIELDS = {'name', 'created', 'active', 'companion', 'metadata', 'turns', 'bytes'}

local function last_fitting(root, ask, first, last)
  local bytes = 0
  for turn = first, last do
    local key = turns_key(root, ask.account, ask.id, int(math.floor(turn / TURNS_PER_CHUNK)))
    bytes = bytes + redis.call('HSTRLEN', key, int(turn) .. ':u') + redis.call('HSTRLEN', key, int(turn) .. ':a')
    if bytes > ask.bytes_max then return math.max(first, turn - 1) end
  end
  return last
end

local function find_turns(root, ask)
  local record = redis.call('HMGET', session_key(root, ask.account, ask.id), unpack(FIELDS))
  if not record[1] then return {} end
  local last = math.min(ask.last, tonumber(record[6]) or 0)
  local first = ask.first or math.max(1, last - ask.count + 1)
  local bytes, fitting = tonumber(table.remove(record)), last
  -- Older processes do not count the bytes of a session; until a recount such a session is measured here.
  if not bytes or bytes > ask.bytes_max then fitting = last_fitting(root, ask, first, last) end
  return {first, last, fitting, unpack(record, 1, #FIELDS - 1)}
end

register('find_turns', find_turns, true)
