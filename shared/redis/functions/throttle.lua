-- Shared by record_refusal and admit_throttled: whether a throttled circuit refused a call by chance or by a limit.
-- After each pause an experiment tells them apart. First, calls are made at a rate that was accepted before (low), then
-- at higher rates (high). A limit refuses none of the low ones, so what is refused of those is refused by chance, and
-- the same share of the high ones is, too. Example: 2 of 40 low calls are refused, so 5 % are by chance; of 20 high
-- ones, one is expected and 3 may be; the fourth shows a limit.

local throttle = {}

-- The share that was found before counts like so many calls of the present experiment.
throttle.FORMER_CALLS = 10
-- Each refusal makes a streak longer by 1, and each call shorter by this; a streak of this length shows a limit, also
-- at a low rate, since the limit may have been lowered. It may be longer the more was refused by chance before.
throttle.STREAK_DECAY, throttle.STREAK_MAX, throttle.STREAK_PER_CHANCE = 0.33, 3, 5
-- No larger share counts as chance, apart from the first refusals: one, or two if the rate was learned from many calls.
throttle.CHANCE_MIN, throttle.CHANCE_MAX = 0.02, 0.3
throttle.MANY_CALLS = 10

function throttle.is_low(state)
  return tonumber(state.interval) >= 0.99 * tonumber(state.proven or state.interval)
end

function throttle.chance_of_refusal(state)
  local low, refused = tonumber(state.low or 0), tonumber(state.low_refused or 0)
  local former = tonumber(state.chance or 0) * throttle.FORMER_CALLS
  return math.min(throttle.CHANCE_MAX, (former + refused) / (throttle.FORMER_CALLS + low))
end

-- Returns whether chance explains a refusal that the counts include.
function throttle.is_chance(state)
  local streak_max = throttle.STREAK_MAX + throttle.STREAK_PER_CHANCE * tonumber(state.chance or 0)
  if tonumber(state.streak) >= streak_max then return false end
  if throttle.is_low(state) then
    local first = tonumber(state.known or 0) < throttle.MANY_CALLS and 1 or 2
    return tonumber(state.low_refused) <= first + throttle.CHANCE_MAX * tonumber(state.low or 0)
  end
  local chance = throttle.chance_of_refusal(state)
  local expected = chance * tonumber(state.high or 0)
  local first = chance >= throttle.CHANCE_MIN and 1 or 0
  return tonumber(state.high_refused) <= expected + math.max(first, 2 * math.sqrt(expected))
end
