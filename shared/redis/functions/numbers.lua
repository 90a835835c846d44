-- Shared by all functions, and joined first: whole numbers as text, the server's time, `account:id` members of sets.

-- Writes a whole number as text. Lua's own tostring writes large ones as 1e+14; redis.call keeps their digits, but
-- formats any number as a fraction, which takes three times as long. So arguments of redis.call are often texts.
local function int(number) return string.format('%d', number) end

local function now_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function now_ms() return math.floor(now_us() / 1000) end

local function member(account, id) return account .. ':' .. id end

local function split(name)
  local colon = string.find(name, ':', 1, true)
  return string.sub(name, 1, colon - 1), string.sub(name, colon + 1)
end
