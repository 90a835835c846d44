-- retry_dead_letter: send the message of a dead letter again with the same options, as a new turn of its session if the
-- generation had one.
-- ASK      account, id (the dead letter's), generation and message (the new ids), unfinished_max, waiting_max,
--          total_max, stored_bytes_max
-- RETURNS  {'revived', generation}, {'poor', balance} or one of {'unknown'}, {'unreadable'}, {'no_session'},
--          {'crowded'}, {'waiting'}, {'full'}, {'quota'}, {'in_batch'} (an item is retried with its batch)
-- ATOMIC   because a dead letter is retried once at most: the hold, the turn, the place in the queue and the mark on
--          the letter are stored together. A repeated call finds the mark.
-- An ended generation stays ended, so the retry is a new one. It has as much time as the first one had, comes after
-- what its account has sent since, and does not count against the account's submission limit.

local function load_letter(root, ask)
  local flat = redis.call('HGETALL', dead_letter_key(root, ask.account, ask.id))
  local letter = {}
  for i = 1, #flat, 2 do letter[flat[i]] = flat[i + 1] end
  return letter
end

-- Returns why it cannot be retried, or nil.
local function find_refusal(root, ask, letter, session)
  local has_session = not has_no_session(ask.id, letter)
  if has_session and redis.call('EXISTS', session) == 0 then return {'no_session'} end
  if count_unfinished(root, ask.account) >= ask.unfinished_max then return {'crowded'} end
  if has_session and count_waiting(root, ask.account, letter.session) >= ask.waiting_max then return {'waiting'} end
  if redis.call('ZCARD', deadlines_key(root)) >= ask.total_max then return {'full'} end
  local balance, sum_0, sum_1, batch_bytes = unpack(redis.call('HMGET', account_totals_key(root, ask.account),
    'balance', 'stored_0', 'stored_1', 'stored_batches'))
  local bytes = #letter.message
  if storage.find_exceeded_quota(root, ask.account, sum_0, sum_1, batch_bytes, nil, bytes, ask.stored_bytes_max) then
    return {'quota'}
  end
  balance = tonumber(balance) or 0
  if balance < tonumber(letter.hold) then return {'poor', int(balance)} end
end

local function take_hold(root, account, hold)
  if hold == 0 then return end
  local totals = account_totals_key(root, account)
  redis.call('HINCRBY', totals, 'balance', int(-hold))
  redis.call('HINCRBY', totals, 'held', int(hold))
end

-- Gives the message its turn. Returns the turn, and whether it is the head of its session.
local function take_turn(root, account, letter, id, message, now)
  local session = session_key(root, account, letter.session)
  local turn = redis.call('HINCRBY', session, 'turns', 1)
  redis.call('HSET', session, 'active', int(now))
  redis.call('ZADD', sessions_key(root, account), int(now), letter.session)
  storage.add_to_session(root, account, letter.session, #message)
  return turn, redis.call('HSETNX', session, 'head', id) == 1
end

local function retry_dead_letter(root, ask)
  local letter = load_letter(root, ask)
  if not letter.session then return {'unknown'} end
  if letter.retried_as then return {'revived', letter.retried_as} end
  if letter.batch then return {'in_batch'} end
  local session = session_key(root, ask.account, letter.session)
  local refusal = find_refusal(root, ask, letter, session)
  if refusal then return refusal end
  local is_read, user_message = pcall(cmsgpack.unpack, letter.message)
  if not is_read or type(user_message) ~= 'table' then return {'unreadable'} end
  local now, hold = now_ms(), tonumber(letter.hold)
  take_hold(root, ask.account, hold)
  user_message.id, user_message.generation, user_message.created = ask.message, ask.generation, now
  local message = cmsgpack.pack(user_message)
  local turn, is_head, session_of_retry = 1, true, ask.generation
  if not has_no_session(ask.id, letter) then
    turn, is_head = take_turn(root, ask.account, letter, ask.generation, message, now)
    session_of_retry = letter.session
  end
  local number = redis.call('HINCRBY', clocks_key(root), 'number', 1)
  local entry = {
    account = ask.account, session = session_of_retry, generation = ask.generation, lane = letter.lane,
    model = letter.model, wire = letter.wire, hold = hold, key = letter.key, blob = letter.submission,
    webhook = letter.webhook,
  }
  enter_queue(root, entry, message, turn, number, int(now), int(now + tonumber(letter.deadline)), is_head)
  redis.call('HSET', dead_letter_key(root, ask.account, ask.id), 'retried_as', ask.generation)
  redis.call('ZREM', dead_letters_key(root), member(ask.account, ask.id))
  return {'revived', ask.generation}
end

register('retry_dead_letter', retry_dead_letter)
