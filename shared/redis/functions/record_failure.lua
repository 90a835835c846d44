-- record_failure: a provider failed at a message, which may open the breaker for everybody or for the message's
-- account.
-- ASK      circuit, call (its id), account, message (a generation's id), why (the failure's category), window_ms,
--          failures_min, failures_share, account_min (messages of one account), cooling_ms, cooling_max_ms, chance (0
--          to 1, for the jitter); if no prompt can cause it: is_shared; if it opens at once: at_once_ms (for so long);
--          if any: answered (calls of the same worker that no report has counted yet), answered_own (of the account,
--          lately)
-- RETURNS  {circuit (that is not closed now, or the one asked for), state, ms left, why, 1 if this call opened it}
-- ATOMIC   because the failure that exceeds the limit is counted and opens the breaker, and of two only one does.
-- Messages are counted, not attempts: a message that fails again counts once. It takes failures_min failed messages,
-- and failures_share of all calls in the window. Example: with failures_min 5 and a share of 0.5, 5 failed messages
-- beside 5 answered calls open the breaker; beside 6 they do not. A prompt may make a provider fail, so messages of one
-- account open the breaker of that account alone, whose circuit is named `circuit@account`. That of all accounts takes
-- messages of two accounts, or a failure that no prompt can cause. Accounts that opened it lately count less
-- (suspect_accounts.lua). While it is open, only the failure of the probe counts: other calls began before. A probe
-- that closed it and then failed opens it again.

local KEEP_MS = 600000
local FAULTS_MAX = 256

local function count_answered(root, ask, now)
  local last, count = window_slot(now, ask.window_ms), ask.answered or 0
  for slot = last - WINDOW_SLOTS + 1, last do
    count = count + tonumber(redis.call('GET', successes_key(root, ask.circuit, int(slot))) or 0)
  end
  return count
end

-- Keeps the message; returns how many failed lately, how many of them are of its own account, and the set of their
-- accounts.
local function record_failed_message(root, ask, now)
  local key = failed_messages_key(root, ask.circuit)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', int(now - ask.window_ms))
  -- Failures in the future were stored before the clock was set back.
  redis.call('ZREMRANGEBYSCORE', key, '(' .. int(now), '+inf')
  redis.call('ZADD', key, 'NX', int(now), member(ask.account, ask.message))
  if redis.call('ZCARD', key) > FAULTS_MAX then redis.call('ZPOPMIN', key) end
  redis.call('PEXPIRE', key, int(ask.window_ms))
  local failed_count, own_failed, accounts = 0, 0, {}
  for _, name in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    local account = split(name)
    failed_count = failed_count + 1
    if account == ask.account then own_failed = own_failed + 1 end
    accounts[account] = true
  end
  return failed_count, own_failed, accounts
end

local function open_breaker(root, ask, circuit, trips, now)
  local growing_ms = ask.cooling_ms * 2 ^ math.min(trips - 1, 20) * (0.8 + 0.4 * ask.chance)
  local cooling_ms = math.floor(ask.at_once_ms or math.min(growing_ms, ask.cooling_max_ms))
  local key = breaker_key(root, circuit)
  redis.call('HDEL', key, 'probe', 'lease')
  redis.call('HSET', key, 'opened', int(now), 'due', int(now + cooling_ms), 'trips', trips, 'why', ask.why,
    'account', ask.account)
  redis.call('PEXPIRE', key, int(cooling_ms + KEEP_MS))
  redis.call('ZADD', cooling_key(root), int(now + cooling_ms), circuit)
  redis.call('DEL', failures_key(root, circuit), failed_messages_key(root, circuit))
  return {circuit, 'open', cooling_ms, ask.why, 1}
end

local function is_too_many(failed_count, answered, failures_min, failures_share)
  return failed_count >= failures_min and failed_count >= failures_share * (failed_count + answered)
end

-- The probe of a circuit failed: its breaker stays open for longer, up to a bound where a suspect's prompt may be why.
local function reopen_breaker(root, ask, circuit, trips, now)
  local is_doubtful = circuit == ask.circuit and not ask.is_shared and not ask.at_once_ms
  if is_doubtful and suspect_accounts.contains(root, circuit, ask.account, now) then
    local trips_max = math.max(trips, suspect_accounts.TRIPS_MAX_SUSPECT)
    return open_breaker(root, ask, circuit, math.min(trips + 1, trips_max), now)
  end
  if is_doubtful then suspect_accounts.add(root, circuit, {[ask.account] = true}, now) end
  return open_breaker(root, ask, circuit, trips + 1, now)
end

local function record_failure(root, ask)
  local now, own_circuit = now_ms(), ask.circuit .. '@' .. ask.account
  for _, circuit in ipairs({ask.circuit, own_circuit}) do
    local probe, trips = unpack(redis.call('HMGET', breaker_key(root, circuit), 'probe', 'trips'))
    if probe == ask.call then return reopen_breaker(root, ask, circuit, trips, now) end
  end
  local breaker = read_breaker(root, ask.circuit, now)
  if breaker[1] ~= 'closed' then return {ask.circuit, breaker[1], breaker[2], breaker[3], 0} end
  if ask.at_once_ms then return open_breaker(root, ask, ask.circuit, 1, now) end
  local failed_count, own_failed, accounts = record_failed_message(root, ask, now)
  if is_too_many(failed_count, count_answered(root, ask, now), ask.failures_min, ask.failures_share) then
    if ask.is_shared then return open_breaker(root, ask, ask.circuit, 1, now) end
    if suspect_accounts.count_effective(root, ask.circuit, accounts, now) > 1 then
      suspect_accounts.add(root, ask.circuit, accounts, now)
      return open_breaker(root, ask, ask.circuit, 1, now)
    end
  end
  breaker = read_breaker(root, own_circuit, now)
  if breaker[1] == 'closed' and is_too_many(own_failed, ask.answered_own or 0, ask.account_min, ask.failures_share) then
    return open_breaker(root, ask, own_circuit, 1, now)
  end
  return {own_circuit, breaker[1], breaker[2], breaker[3], 0}
end

register('record_failure', record_failure)
