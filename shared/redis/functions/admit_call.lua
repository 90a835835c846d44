-- admit_call: let a call go to a provider that has limits, if they leave room.
-- ASK      provider, lane, call (its id), lease_ms; where concurrency is limited: concurrency_max, batch_max (of the
--          batch lane); where a rate is limited: request_us (time between two requests), request_burst_us, tokens_us
--          (time that the call's estimated tokens take), tokens_burst_us
-- RETURNS  {'admitted'}, or {'busy', ms until there may be room (0: unknown)}
-- ATOMIC   because a slot, a request and tokens are taken together, by one worker at a time, or not at all.
-- Both rates are GCRAs: an arrival is the time at which the provider would be idle if it kept to its rate. Example: 600
-- requests a minute are one each 100 ms (request_us 100000); ten calls at once move the arrival to now + 1 s, and with
-- a burst of 1 s the eleventh is busy for 100 ms. Batches never starve: where none is under way and one was turned away
-- lately, interactive calls leave it a slot, unless there is only one.

-- A turn that waits for room is tried again within this time.
local TURNED_AWAY_MS = 35000
-- No slot is leased for longer.
local LEASE_MAX_MS = 120000
-- As in end_call.lua: a provider forgets an excess within minutes.
local OWED_MAX_US = 300000000

local function is_owed(root, ask, batch, now)
  if ask.lane == 'batch' or batch > 0 or ask.concurrency_max == 1 then return false end
  local turned_away = redis.call('HGET', rates_key(root, ask.provider), 'batch')
  return turned_away and math.abs(now - tonumber(turned_away)) < TURNED_AWAY_MS
end

local function is_full(root, ask, now)
  if not ask.concurrency_max then return false end
  -- A lease that ends later than possible was given before the clock was set back; its holder renews it each second.
  local since, until_ms = '(' .. int(now), int(now + LEASE_MAX_MS)
  local batch = redis.call('ZCOUNT', slots_key(root, ask.provider, 'batch'), since, until_ms)
  local total = batch + redis.call('ZCOUNT', slots_key(root, ask.provider, 'interactive'), since, until_ms)
  if ask.lane == 'batch' and batch >= ask.batch_max then return true end
  return total >= ask.concurrency_max - (is_owed(root, ask, batch, now) and 1 or 0)
end

local function extend_ttl(key, ms)
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, int(ms)) end
end

local function note_batch(root, ask, now, is_turned_away)
  if ask.lane ~= 'batch' or not ask.concurrency_max then return end
  local key = rates_key(root, ask.provider)
  if is_turned_away then
    redis.call('HSET', key, 'batch', int(now))
    extend_ttl(key, 2 * TURNED_AWAY_MS)
  else
    redis.call('HDEL', key, 'batch')
  end
end

-- Returns the arrival after a cost, and by how many us that is too early. An arrival further ahead than possible was
-- stored before the clock was set back.
local function arrive(known, cost, burst, now, furthest)
  local stored = math.min(tonumber(known or 0), now + furthest)
  local arrival = math.max(stored, now) + cost
  return arrival, arrival - now - burst
end

local function admit_call(root, ask)
  local now = now_us()
  local ms = math.floor(now / 1000)
  local leased = redis.call('ZSCORE', slots_key(root, ask.provider, ask.lane), ask.call)
  if leased and tonumber(leased) > ms then return {'admitted'} end
  if is_full(root, ask, ms) then
    note_batch(root, ask, ms, true)
    return {'busy', 0}
  end
  local key, early = rates_key(root, ask.provider), 0
  local requests, tokens = unpack(redis.call('HMGET', key, 'requests', 'tokens'))
  if ask.request_us then
    requests, early = arrive(requests, ask.request_us, ask.request_burst_us, now, ask.request_burst_us)
  end
  if ask.tokens_us then
    local tokens_early
    local furthest = math.max(ask.tokens_burst_us, OWED_MAX_US)
    tokens, tokens_early = arrive(tokens, ask.tokens_us, ask.tokens_burst_us, now, furthest)
    early = math.max(early, tokens_early)
  end
  if early > 0 then return {'busy', math.ceil(early / 1000)} end
  if ask.request_us then redis.call('HSET', key, 'requests', int(requests)) end
  if ask.tokens_us then redis.call('HSET', key, 'tokens', int(tokens)) end
  if ask.request_us or ask.tokens_us then
    local last = math.max(ask.request_us and requests or 0, ask.tokens_us and tokens or 0)
    extend_ttl(key, (last - now) / 1000 + 60000)
  end
  note_batch(root, ask, ms, false)
  lease_slot(root, ask.provider, ask.lane, ask.call, ms, ask.lease_ms)
  return {'admitted'}
end

register('admit_call', admit_call)
