-- status: return all that a caller may know of a generation.
-- ASK      account, id
-- RETURNS  {} when there is none, else {now ms, unfinished of the account, rank, running, running_max (0: unknown),
--          lane_accounts, session_turns_before, 1 if it is behind its session's head, ms since the first turn before it
--          started (-1: it waits, too), ms until it is retried, body, user message, the event that named the chosen
--          model, field, value...}. lane_accounts counts the accounts that share its lane, in accounts of its own
--          weight, and session_turns_before its session's turns that wait before it, both where anything comes first;
--          body is the text so far, or the assistant message's record once it has ended
-- ATOMIC   because the state and the text must be of the same moment.
-- The reply is one list, like that of `claim`: names for its 13 values would cost each poll more.

-- A deferred generation is retried at a known time; any other waits for its turn, or for a person.
local function ms_until_retry(root, ask, record, now)
  if record.stage ~= 'retrying' or record.suspended then return 0 end
  local due = redis.call('ZSCORE', deferred_key(root), member(ask.account, ask.id))
  return due and math.max(0, tonumber(due) - now) or 0
end

-- Returns whether it is behind its session's head, and how many ms ago the first turn before it started: that head, or
-- else the account's oldest turn of the lane.
local function find_first_before(root, ask, record, place, now)
  local first
  if place then
    first = redis.call('HGET', session_key(root, ask.account, record.session), 'head')
  else
    first = redis.call('ZRANGE', unfinished_key(root, ask.account, record.lane), 0, 0)[1]
  end
  return place and 1 or 0, first and ms_since_start(root, ask.account, first, now) or -1
end

-- A later attempt chooses again.
local function load_routed_event(root, ask, record)
  local epoch = string.match(record.routed or '', '^(%d+)%-%d+$')
  if epoch ~= record.attempt then return false end
  local found = redis.call('XRANGE', events_key(root, ask.account, ask.id), record.routed, record.routed)
  return found[1] and found[1][2][2] or false
end

local function status(root, ask)
  local flat = redis.call('HGETALL', generation_key(root, ask.account, ask.id))
  if #flat == 0 then return {} end
  local record = {}
  for i = 1, #flat, 2 do record[flat[i]] = flat[i + 1] end
  local now, rank, running, running_max, lane_accounts, session_turns_before = now_ms(), -1, 0, 0, 1, 0
  local is_behind_head, first_age_ms, retry_in_ms, routed = 0, -1, 0, false
  local body
  local turns = turns_chunk_key(root, ask.account, record.session, record.turn)
  local user = redis.call('HGET', turns, record.turn .. ':u')
  if is_final(record) then
    body = redis.call('HGET', turns, record.turn .. ':a')
  else
    retry_in_ms, routed = ms_until_retry(root, ask, record, now), load_routed_event(root, ask, record)
    body = redis.call('GET', text_key(root, ask.account, ask.id))
    rank = redis.call('ZRANK', unfinished_key(root, ask.account, record.lane), ask.id) or -1
    local own = redis.call('HMGET', account_totals_key(root, ask.account), 'running_' .. record.lane, 'running_most',
      'lane_stride')
    running, running_max = tonumber(own[1] or 0), tonumber(own[2] or 0)
    if not record.worker and rank > 0 then
      local place = redis.call('ZRANK', waiting_key(root, ask.account, record.session), ask.id)
      is_behind_head, first_age_ms = find_first_before(root, ask, record, place, now)
      if rank > running then
        lane_accounts = count_lane_accounts(root, ask.account, record.lane, tonumber(own[3]) or STRIDE)
        session_turns_before = place or 0
      end
    end
  end
  local answer = {now, count_unfinished(root, ask.account), rank, running, running_max, lane_accounts,
    session_turns_before, is_behind_head, first_age_ms, retry_in_ms, body, user, routed}
  for i = 1, #flat do answer[i + 13] = flat[i] end
  return answer
end

register('status', status, true)
