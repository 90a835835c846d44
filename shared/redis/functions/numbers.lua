-- What the functions share, before all else: how numbers are written.

-- A whole number as text. Lua itself writes large ones as 1e+14; redis.call keeps their digits, but writes any number
-- as a fraction, which takes three times as long. So what is called often passes texts.
local function int(number) return string.format('%d', number) end
