-- What the functions share, before all else: how numbers are written, the time, and members of sorted sets.

-- A whole number as text. Lua itself writes large ones as 1e+14; redis.call keeps their digits, but writes any number
-- as a fraction, which takes three times as long. So what is called often passes texts.
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
