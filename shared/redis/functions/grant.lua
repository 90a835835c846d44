-- grant: give an account credits.
-- ASK      account, amount (microcredits, may be negative down to what is free)
-- RETURNS  the new balance, or -1 when the account has not that much to take
-- ATOMIC   because granted = balance + held + settled must hold at every moment.

local function grant(root, ask)
  local books = books_key(root, ask.account)
  local balance = tonumber(redis.call('HGET', books, 'balance') or 0) + ask.amount
  if balance < 0 then return -1 end
  redis.call('HINCRBY', books, 'granted', int(ask.amount))
  redis.call('HSET', books, 'balance', int(balance))
  write_ledger(root, ask.account, {kind = 'grant', amount = ask.amount})
  return int(balance)
end

register('grant', grant)
