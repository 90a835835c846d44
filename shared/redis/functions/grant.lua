-- grant: give an account credits.
-- ASK      account, amount (microcredits, may be negative down to what is free)
-- RETURNS  the new balance, -1 when the account has not that much to take, or -2 when it would have been given more
--          than the books can count
-- ATOMIC   because granted = balance + held + settled must hold at every moment.

-- Larger numbers lose their last digits: Lua has no integers. No other sum of the books is above what was granted.
local GRANTED_MAX = 9007199254740991

local function grant(root, ask)
  local totals = account_totals_key(root, ask.account)
  local granted = tonumber(redis.call('HGET', totals, 'granted') or 0) + ask.amount
  if ask.amount > 0 and granted > GRANTED_MAX then return -2 end
  local balance = tonumber(redis.call('HGET', totals, 'balance') or 0) + ask.amount
  if balance < 0 then return -1 end
  redis.call('HINCRBY', totals, 'granted', int(ask.amount))
  redis.call('HSET', totals, 'balance', int(balance))
  write_ledger(root, ask.account, {kind = 'grant', amount = ask.amount})
  return int(balance)
end

register('grant', grant)
