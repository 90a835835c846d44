-- usage: return what an account used, day by day.
-- ASK      account, first (the first day), days (how many from there on, a year at most)
-- RETURNS  {{day, field, value...}...}, of the days that exist
-- ATOMIC   no need; it is one call instead of one a day.

local DAYS_MAX = 366

local function usage(root, ask)
  if ask.days > DAYS_MAX then error('MORE DAYS than ' .. DAYS_MAX .. ' are asked for') end
  local found = {}
  for day = ask.first, ask.first + ask.days - 1 do
    local fields = redis.call('HGETALL', usage_key(root, ask.account, int(day)))
    if #fields > 0 then
      table.insert(fields, 1, day)
      table.insert(found, fields)
    end
  end
  return found
end

register('usage', usage, true)
