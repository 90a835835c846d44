-- Shared: the accounts whose messages opened a circuit's breaker lately.
--
-- A prompt may make a provider fail, so messages from two accounts of one person look like an outage. For ten minutes
-- the accounts whose messages opened a breaker are suspect: three of them count as one towards the two that open it,
-- they probe after others, and their failed probes double the cooling time at most three times. Example:
-- messages of ann and bob open it. A minute later theirs fail again: both are suspect and count as one, so it stays
-- closed. When one of carl's fails too, they count as two, and it opens, as in an outage. Meanwhile the breakers of
-- ann's and bob's own circuits keep their messages away from the provider.

local suspect_accounts = {SUSPECT_MS = 600000, MAX = 256, ACCOUNTS_PER_COUNT = 3, TRIPS_MAX_SUSPECT = 4}

function suspect_accounts.contains(root, circuit, account, now)
  local until_ms = tonumber(redis.call('ZSCORE', suspect_accounts_key(root, circuit), account) or 0)
  -- A time further ahead than possible was set before the clock was set back.
  return until_ms > now and until_ms <= now + suspect_accounts.SUSPECT_MS
end

function suspect_accounts.add(root, circuit, accounts, now)
  local key = suspect_accounts_key(root, circuit)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', int(now))
  for account in pairs(accounts) do redis.call('ZADD', key, int(now + suspect_accounts.SUSPECT_MS), account) end
  redis.call('ZREMRANGEBYRANK', key, 0, -(suspect_accounts.MAX + 1))
  redis.call('PEXPIRE', key, suspect_accounts.SUSPECT_MS)
end

-- Returns how many accounts failed messages count as: `accounts` is the set of their accounts.
function suspect_accounts.count_effective(root, circuit, accounts, now)
  local others, suspect_count = 0, 0
  for account in pairs(accounts) do
    if suspect_accounts.contains(root, circuit, account, now) then
      suspect_count = suspect_count + 1
    else
      others = others + 1
    end
  end
  return others + math.ceil(suspect_count / suspect_accounts.ACCOUNTS_PER_COUNT)
end
