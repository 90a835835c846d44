-- What the functions share beside the preamble: an account's credits, and what is due for an answer.
-- Stands before it, because an end is charged.

-- What an account was given and what it paid, for ever: nothing changes or removes an entry.
local function write_ledger(root, account, entry)
  redis.call('XADD', ledger_key(root, account), '*', 'e', cmsgpack.pack(entry))
end

-- Credits go from held to settled, what was held beyond the cost is free again, and what it cost beyond the
-- hold is noted. In the same write `bytes` are added to what is stored on a `side`. Returns the captured microcredits.
local function settle_credits(root, account, id, generation, ending, side, bytes)
  local hold, cost = tonumber(generation.hold), ending.cost
  local captured = math.min(hold, cost)
  if cost > 0 then
    local model = ending.meter and ending.meter.model
    write_ledger(root, account, {
      kind = 'charge', generation = id, amount = captured, overrun = cost > captured and cost - captured or nil,
      model = model, key = generation.key,
    })
  end
  if hold > 0 then
    local totals, sum = account_totals_key(root, account), storage.sum_field(side)
    local held, balance, settled, before = unpack(redis.call('HMGET', totals, 'held', 'balance', 'settled', sum))
    redis.call('HSET', totals, 'held', int((held or 0) - hold), 'balance', int((balance or 0) + hold - captured),
      'settled', int((settled or 0) + captured), sum, int((before or 0) + bytes))
    -- If what follows fails, the hold is not to be given back once more.
    damage.last_settled = id
  else
    storage.add(root, account, side, bytes)
  end
  if cost > captured then
    redis.call('HINCRBY', account_totals_key(root, account), 'overrun', int(cost - captured))
  end
  return captured
end

local MS_PER_DAY = 86400000

-- A day's use, by model and key; days are counted from 1970-01-01, in UTC.
local function count_usage(root, account, generation, ending, captured)
  local meter = ending.meter
  local name = usage_key(root, account, int(math.floor(ending.now / MS_PER_DAY)))
  local of = meter.model .. '|' .. (generation.key or '') .. '|'
  redis.call('HINCRBY', name, of .. 'generations', '1')
  redis.call('HINCRBY', name, of .. 'input', int(meter.input))
  redis.call('HINCRBY', name, of .. 'output', int(meter.output))
  if meter.reasoning > 0 then redis.call('HINCRBY', name, of .. 'reasoning', int(meter.reasoning)) end
  if captured > 0 then redis.call('HINCRBY', name, of .. 'credits', int(captured)) end
end

-- How tokens are estimated from bytes, as in `routing/price.py`; a test compares them.
local BYTES_PER_TOKEN, TOKENS_PER_MESSAGE = 3, 8

local function tokens_in(bytes) return math.floor(bytes / BYTES_PER_TOKEN) + TOKENS_PER_MESSAGE end

-- What was shown of an answer is due however it is ended, unless it failed for a fault that is not the caller's.
local PAID_CODES = {[CANCELLED.code] = true, [EXPIRED.code] = true}

-- What the last append said would be due, if it was of the attempt whose text is there. An estimate, in the fields
-- of a message's usage, and its model.
local function parse_bill(generation, failure)
  if not generation.bill or not PAID_CODES[failure.code] then return nil end
  local words = {string.match(generation.bill, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (.+)$')}
  if words[1] ~= generation.attempt then return nil end
  return {
    cost = tonumber(words[2]), input_tokens = tonumber(words[3]), output_tokens = tonumber(words[4]),
    reasoning_tokens = tonumber(words[5]), searches = tonumber(words[6]), search_cost = tonumber(words[7]),
    estimated = true,
  }, words[8]
end
