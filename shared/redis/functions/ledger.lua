-- Shared: an account's credits, its daily usage, and the charge for an answer that ends early.
-- Joined before finish.lua, because an end settles credits.

-- The ledger lists every grant and every charge; no entry is ever changed or removed.
local function write_ledger(root, account, entry)
  redis.call('XADD', ledger_key(root, account), '*', 'e', cmsgpack.pack(entry))
end

-- Ends a generation's hold: of the hold the cost is captured (`settled`), the rest returns to the balance, and a cost
-- beyond the hold is noted as `overrun`. The same write adds `bytes` to what the account stores on a `side`. What an
-- `item` of a batch captures is written to the ledger with its chunk. Returns the captured microcredits and, where that
-- was read with the credits, whether the account has a webhook. Example: of a hold of 100 and a cost of 30, 30 are
-- settled and 70 go back; at a cost of 120, 100 are settled, none go back, and 20 are overrun, which nobody pays.
local function settle_credits(root, account, id, generation, ending, side, bytes, item)
  local hold, cost = tonumber(generation.hold), ending.cost
  local captured, is_watched = math.min(hold, cost), nil
  if cost > 0 and not item then
    local model = ending.meter and ending.meter.model
    write_ledger(root, account, {
      kind = 'charge', generation = id, amount = captured, overrun = cost > captured and cost - captured or nil,
      model = model, key = generation.key,
    })
  end
  if hold > 0 then
    local totals, sum = account_totals_key(root, account), storage.sum_field(side)
    local held, balance, settled, stored, webhook =
      unpack(redis.call('HMGET', totals, 'held', 'balance', 'settled', sum, 'webhook'))
    is_watched = webhook == '1'
    redis.call('HSET', totals, 'held', int((held or 0) - hold), 'balance', int((balance or 0) + hold - captured),
      'settled', int((settled or 0) + captured), sum, int((stored or 0) + bytes))
    -- If a later step fails, damage.lua must not release the hold a second time.
    damage.last_settled = id
  else
    storage.add(root, account, side, bytes)
  end
  if cost > captured then
    redis.call('HINCRBY', account_totals_key(root, account), 'overrun', int(cost - captured))
  end
  return captured, is_watched
end

local function add_usage(name, prefix, meter, credits)
  redis.call('HINCRBY', name, prefix .. 'input', int(meter.input))
  redis.call('HINCRBY', name, prefix .. 'output', int(meter.output))
  if meter.reasoning > 0 then redis.call('HINCRBY', name, prefix .. 'reasoning', int(meter.reasoning)) end
  if (meter.cached or 0) > 0 then redis.call('HINCRBY', name, prefix .. 'cached', int(meter.cached)) end
  if (meter.written or 0) > 0 then redis.call('HINCRBY', name, prefix .. 'written', int(meter.written)) end
  if credits > 0 then redis.call('HINCRBY', name, prefix .. 'credits', int(credits)) end
end

-- Adds to the day's usage, by model and API key. Days are counted from 1970-01-01, in UTC. The generation counts for
-- the model that answered; others that made calls before it have their own tokens and credits. Example: of a captured
-- 50, another model's calls cost 20 and get them, and the answering model gets 30.
local function count_usage(root, account, generation, ending, captured)
  local meter, left = ending.meter, captured
  local name = usage_key(root, account, int(math.floor(ending.now / MS_PER_DAY)))
  local key = '|' .. (generation.key or '') .. '|'
  if meter.others then
    for _, other in ipairs(meter.others) do
      local credits = math.min(left, other.cost)
      left = left - credits
      add_usage(name, other.model .. key, other, credits)
    end
  end
  redis.call('HINCRBY', name, meter.model .. key .. 'generations', '1')
  add_usage(name, meter.model .. key, meter, left)
end

-- Estimates tokens from bytes as `routing/price.py` does.
local function tokens_in(bytes) return math.floor(bytes / BYTES_PER_TOKEN) + TOKENS_PER_MESSAGE end

-- An answer that was cancelled or has expired is charged for what its followers saw of it; a failed one is not.
local PAID_CODES = {[CANCELLED.code] = true, [EXPIRED.code] = true}

-- Returns the charge that the attempt's last append noted, in the fields of a message's usage and marked as estimated,
-- and its model; nil where nothing is due. A bill of an earlier attempt does not count: its text was dropped.
local function parse_bill(generation, failure)
  if not generation.bill or not PAID_CODES[failure.code] then return nil end
  local parts = {string.match(generation.bill, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (.+)$')}
  if parts[1] ~= generation.attempt then return nil end
  return {
    cost = tonumber(parts[2]), input_tokens = tonumber(parts[3]), output_tokens = tonumber(parts[4]),
    reasoning_tokens = tonumber(parts[5]), searches = tonumber(parts[6]), search_cost = tonumber(parts[7]),
    estimated = true,
  }, parts[8]
end
