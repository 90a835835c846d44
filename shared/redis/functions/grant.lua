-- grant: give an account credits, or take free ones back.
-- ASK      account, amount (microcredits; negative to take)
-- RETURNS  the new balance, -1 where the balance is less than is to be taken, or -2 where the account would have been
--          granted more than can be counted
-- ATOMIC   because granted = balance + held + settled must hold at every moment.

-- Lua has no integers: larger numbers lose their last digits. No other total of an account exceeds what was granted.
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
