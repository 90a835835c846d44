-- recount: count some more of what an account stores, session by session.
-- ASK      account; to continue: cursor (the time of the last session that was counted); if the last call stopped
--          within a session: session, chunk, bytes (found in it before that chunk)
-- RETURNS  {'more', corrected, cursor, session, chunk, bytes} (session '' if it stopped between two), or
--          {'done', corrected, bytes of sessions that no longer exist, 1 if the account had not been counted before};
--          corrected: by how many bytes the counts of the sessions that this call finished were wrong
-- ATOMIC   because a session may change, and moves from one sum to the other with the bytes it has at that moment.
-- Chunks before the one being answered do not change, so a long session is measured in several calls. The two sums are
-- described in storage_quota.lua.

local SESSIONS_AT_ONCE, CHUNKS_AT_ONCE = 256, 64

local function field_bytes(key, field)
  local length = redis.pcall('HSTRLEN', key, field)
  return type(length) == 'number' and length or 0
end

-- Returns the first chunk that may still change.
local function first_open_chunk(root, account, turns, head)
  local turn = head and redis.pcall('HGET', generation_key(root, account, head), 'turn')
  turn = type(turn) == 'string' and tonumber(turn) or turns
  return math.floor(math.min(turn, turns) / TURNS_PER_CHUNK)
end

-- Adds up chunks from `progress.chunk` on. Returns whether the last one was among them.
local function weigh_chunks(root, account, session, turns, progress, budget)
  local last = math.floor(turns / TURNS_PER_CHUNK)
  local ends = progress.chunk + budget.chunks
  local open = first_open_chunk(root, account, turns, progress.head)
  if ends > open then ends = last + 1 end
  for chunk = progress.chunk, ends - 1 do
    local key = turns_key(root, account, session, int(chunk))
    for turn = math.max(1, chunk * TURNS_PER_CHUNK), math.min(turns, (chunk + 1) * TURNS_PER_CHUNK - 1) do
      progress.bytes = progress.bytes + field_bytes(key, int(turn) .. ':u') + field_bytes(key, int(turn) .. ':a')
    end
  end
  budget.chunks = budget.chunks - math.max(1, ends - progress.chunk)
  progress.chunk = ends
  return ends > last
end

-- Measures a session and moves it to the side being counted. Returns whether it is finished, and by how many bytes its
-- count was wrong.
local function move_session(root, account, session, side, progress, budget)
  local key = session_key(root, account, session)
  local turns, head, bytes_before, from = unpack(redis.pcall('HMGET', key, 'turns', 'head', 'bytes', 'side'))
  -- A session without a side is measured in any case: an older process may have made it and counted nothing.
  if not tonumber(turns) or from == side then return true, 0 end
  progress.head = head
  if not weigh_chunks(root, account, session, tonumber(turns), progress, budget) then return false, 0 end
  local bytes = progress.bytes
  for _, field in ipairs({'name', 'system', 'companion', 'metadata'}) do bytes = bytes + field_bytes(key, field) end
  storage.add(root, account, from, -(tonumber(bytes_before) or 0))
  storage.add(root, account, side, bytes)
  redis.call('HSET', key, 'bytes', bytes, 'side', side)
  return true, math.abs(bytes - (tonumber(bytes_before) or 0))
end

-- Returns the side that sessions move to; an interrupted count continues.
local function begin_count(root, account, is_first_call)
  local totals = account_totals_key(root, account)
  local side, is_counting = unpack(redis.call('HMGET', totals, 'stored_side', 'is_counting'))
  side = side or '0'
  if not is_first_call or is_counting then return side end
  side = side == '1' and '0' or '1'
  redis.call('HSET', totals, 'stored_side', side, 'is_counting', 1)
  return side
end

local function finish_count(root, account, side, corrected)
  local totals, left = account_totals_key(root, account), storage.sum_field(side == '1' and '0' or '1')
  local bytes_left, counted_at = unpack(redis.call('HMGET', totals, left, 'counted_at'))
  redis.call('HDEL', totals, left, 'is_counting')
  redis.call('HSET', totals, 'counted_at', int(now_ms()))
  redis.call('ZREM', recount_key(root), account)
  return {'done', corrected, tonumber(bytes_left) or 0, counted_at and 0 or 1}
end

local function recount(root, ask)
  local account, first, budget = ask.account, ask.cursor or 0, {chunks = CHUNKS_AT_ONCE}
  local cursor = first
  local side, corrected = begin_count(root, account, cursor == 0 and not ask.session), 0
  local page = redis.call('ZRANGE', sessions_key(root, account), int(cursor), '+inf', 'BYSCORE', 'LIMIT', 0,
    SESSIONS_AT_ONCE, 'WITHSCORES')
  for i = 1, #page, 2 do
    local progress = {chunk = 0, bytes = 0}
    if page[i] == ask.session then progress = {chunk = ask.chunk or 0, bytes = ask.bytes or 0} end
    local is_done, wrong = move_session(root, account, page[i], side, progress, budget)
    if not is_done then
      return {'more', corrected, tonumber(page[i + 1]), page[i], progress.chunk, progress.bytes}
    end
    corrected, cursor = corrected + wrong, tonumber(page[i + 1])
    if budget.chunks <= 0 then return {'more', corrected, cursor, '', 0, 0} end
  end
  if #page < 2 * SESSIONS_AT_ONCE then return finish_count(root, account, side, corrected) end
  -- All sessions of the page are of one moment: go on behind it.
  if cursor == first then cursor = cursor + 1 end
  return {'more', corrected, cursor, '', 0, 0}
end

register('recount', recount)
