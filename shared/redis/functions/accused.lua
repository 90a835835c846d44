-- What the functions share beside the preamble: the accounts whose messages opened a circuit to all lately.
--
-- A prompt may make an upstream fail, so the messages of two accounts of one person look like an outage. For ten minutes
-- the accounts whose messages opened a circuit are accused: three of them count as one where two are needed to open it
-- again, they probe after others, and their failed probes double the cooling three times at most. Example: messages of
-- ann and bob open it. A minute later theirs fail again and it stays closed; with one of carl's it opens, as in an
-- outage. Meanwhile the circuits of their own spare the upstream the messages of ann and bob.

local accused = {MS = 600000, MAX = 256, COUNTED_AS_ONE = 3, TRIPS_MAX = 4}

function accused.contains(root, circuit, account, now)
  local till = tonumber(redis.call('ZSCORE', accused_key(root, circuit), account) or 0)
  -- A time beyond what can be was set before the clock was set back.
  return till > now and till <= now + accused.MS
end

function accused.add(root, circuit, accounts, now)
  local key = accused_key(root, circuit)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', int(now))
  for account in pairs(accounts) do redis.call('ZADD', key, int(now + accused.MS), account) end
  redis.call('ZREMRANGEBYRANK', key, 0, -(accused.MAX + 1))
  redis.call('PEXPIRE', key, accused.MS)
end

-- How many accounts count of those whose messages failed: `accounts` is a set.
function accused.weigh(root, circuit, accounts, now)
  local others, known = 0, 0
  for account in pairs(accounts) do
    if accused.contains(root, circuit, account, now) then known = known + 1 else others = others + 1 end
  end
  return others + math.ceil(known / accused.COUNTED_AS_ONE)
end
