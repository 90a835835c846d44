-- Shared: suspects, the generations that a worker held when it died. Any one of them may be the cause.
--
-- The first death counts against none of them. A suspect's record has these fields:
--   falls     deaths of workers that held it
--   crashes   deaths that it alone can have caused; `crashes_max` of them end it as failed
--   company   how many suspects, itself included, may run in one worker while it does
-- At first `company` is as many as the dead worker held, so that all of them run again at once; each further death
-- leaves a quarter. Example: a worker dies with 16 generations, each gets company 16. One of them kills its next worker
-- among 16: company 4. The next dies among 4: company 1. With a company of 1 it is the only suspect in its worker,
-- beside generations that nobody suspects, and the next death counts against it alone. (Company 0: it died as the
-- only generation of its worker that this partition knows of. If it also causes the next death, both count.)
-- An attempt that ends in any other way clears the suspicion. `crashes` without `company` was counted by an older
-- process: such a generation runs as the only suspect.
--
-- A storm is when workers die so fast that no generation explains it, as when somebody kills them. In a storm a death
-- says little: suspects run together in any number (`mixed`), and no death counts against one of them. A suspect with
-- more than STORM_FALLS_MAX falls runs as the only suspect even then.
--
-- A waiting suspect is in `deferred`, where workers that know no suspects find it after a while, and in the sorted set
-- `suspects`, from which claims take it at once.

-- One table instead of ten locals: Lua allows 200 in one scope.
local SUSPECTS = {}

SUSPECTS.FALLBACK_MS = 5000
-- Added to a batch's number in `suspects`, which places batches after all interactive turns.
SUSPECTS.BATCH_OFFSET = 1000000000000
SUSPECTS.SUSPECTS_SHRINK_FACTOR = 4
-- `deaths` counts recent deaths in a partition; it falls by one each DEATH_FORGOTTEN_MS. Above STORM_DEATHS a storm
-- begins, or goes on, for STORM_MS. Example: five workers die within a second: deaths is 4.5 to 5, so a storm begins.
-- Two deaths ten seconds apart never add up to more than 1.
SUSPECTS.STORM_DEATHS, SUSPECTS.DEATH_FORGOTTEN_MS, SUSPECTS.STORM_MS = 4, 2000, 5000
-- How long a storm lasts when a generation completes against which a death was counted.
SUSPECTS.ACQUITTED_MS = 60000
SUSPECTS.STORM_FALLS_MAX = 8
-- Of falls that a neighbour may have caused, so many count as upstream calls: otherwise other generations' crashes
-- would use up all the calls that a message may make.
SUSPECTS.CALLS_LOST_MAX = 2

local function is_storm(root, now)
  return now < tonumber(redis.call('HGET', clocks_key(root), 'storm') or 0)
end

-- Counts deaths of workers, and begins a storm where they are too many.
local function record_deaths(root, count, now)
  local key = clocks_key(root)
  local known = redis.call('HMGET', key, 'deaths', 'died')
  local since = math.max(0, now - tonumber(known[2] or 0))
  local remembered = math.max(0, tonumber(known[1] or 0) - since / SUSPECTS.DEATH_FORGOTTEN_MS)
  local deaths = math.min(remembered + count, 2 * SUSPECTS.STORM_DEATHS)
  redis.call('HSET', key, 'deaths', string.format('%.3f', deaths), 'died', int(now))
  if deaths <= SUSPECTS.STORM_DEATHS then return end
  local storm_ends = math.max(tonumber(redis.call('HGET', key, 'storm') or 0), now + SUSPECTS.STORM_MS)
  redis.call('HSET', key, 'storm', int(storm_ends))
end

-- A generation that completed has killed nobody. If a death was counted against it, workers die of something else than
-- what they run, so a storm begins.
extend_storm_if_blamed = function(root, record, now)
  if tonumber(record.crashes) <= 0 then return end
  local storm_ends = math.max(tonumber(redis.call('HGET', clocks_key(root), 'storm') or 0), now + SUSPECTS.ACQUITTED_MS)
  redis.call('HSET', clocks_key(root), 'storm', int(storm_ends))
end

-- Returns the company of a record, 1 at least; nil for a record that is no suspect.
local function suspects_max_of(record)
  return record.crashes and math.max(1, tonumber(record.company) or 1)
end

local function join_suspects(root, account, id, record)
  local name, score = member(account, id), tonumber(record.number)
  if record.lane == 'batch' then score = score + SUSPECTS.BATCH_OFFSET end
  redis.call('ZADD', deferred_key(root), int(now_ms() + SUSPECTS.FALLBACK_MS), name)
  redis.call('ZADD', suspects_key(root), int(score), name)
  wake_worker(root, record.lane, record.wire)
end

local function has_suspects(root, lane)
  local lowest, highest = '-inf', '(' .. int(SUSPECTS.BATCH_OFFSET)
  if lane == 'batch' then lowest, highest = int(SUSPECTS.BATCH_OFFSET), '+inf' end
  return redis.call('ZCOUNT', suspects_key(root), lowest, highest) > 0
end

-- Puts a generation that waits where claims look for it: suspects among suspects, all others into their lane.
enqueue = function(root, account, id, record)
  if record.crashes then
    join_suspects(root, account, id, record)
  else
    make_ready(root, account, id, record.lane, record.number, record.wire)
  end
end

local function falls_of(record) return tonumber(record.falls) or 0 end

-- An attempt died in a worker that held `held` generations. Returns how many deaths now count against this one.
local function record_crash(root, account, id, record, held, is_stormy)
  local key, company = generation_key(root, account, id), suspects_max_of(record)
  local crashes, falls = tonumber(record.crashes or 0), falls_of(record) + 1
  if not company then
    company = held > 1 and held or 0
  elseif company > 1 then
    company = math.ceil(company / SUSPECTS.SUSPECTS_SHRINK_FACTOR)
  elseif not record.mixed and (not is_stormy or falls > SUSPECTS.STORM_FALLS_MAX) then
    crashes, company = crashes + (record.company == '0' and 2 or 1), 1
  else
    company = record.company or 1
  end
  -- A dying attempt cannot store how many calls it made. One in the stage `generating` had one call under way.
  local counts_as_call = falls <= SUSPECTS.CALLS_LOST_MAX or crashes > tonumber(record.crashes or 0)
  local calls = tonumber(record.calls or 0) + (counts_as_call and stages.of(record) == 'generating' and 1 or 0)
  redis.call('HSET', key, 'crashes', int(crashes), 'company', int(company), 'falls', int(falls), 'calls', int(calls))
  record.crashes = crashes
  return crashes
end

local function clear_suspicion(root, account, id, record)
  if not record.crashes then return end
  record.crashes, record.company = nil, nil
  redis.call('HDEL', generation_key(root, account, id), 'crashes', 'company', 'falls', 'mixed')
end

-- The company of a suspect that may run beside any number of others.
SUSPECTS.UNLIMITED = 1000000

-- Returns how many suspects may run in one worker with this record; 0 for one that is no suspect.
local function suspects_max_in(group, record)
  local company = suspects_max_of(record)
  if not company then return 0 end
  if group.is_stormy and falls_of(record) <= SUSPECTS.STORM_FALLS_MAX then return SUSPECTS.UNLIMITED end
  return company
end

-- Returns whether a record of that company may run in this worker now. Nothing joins a suspect of company 1, because a
-- death of its worker counts against it alone.
local function can_join(group, company)
  if company == 0 then return true end
  if company == SUSPECTS.UNLIMITED then return group.held == 0 or group.suspects_max > 1 end
  return group.held + 1 <= math.min(group.suspects_max, company)
end

-- Adds a claimed record to the worker's group. `mixed` marks one that runs beside any number of suspects: its worker's
-- death will not count against it.
local function join_group(root, group, account, id, record, company)
  if company == 0 then return end
  group.held, group.suspects_max = group.held + 1, math.min(group.suspects_max, company)
  if company == SUSPECTS.UNLIMITED then
    redis.call('HSET', generation_key(root, account, id), 'mixed', '1')
  elseif record.mixed then
    redis.call('HDEL', generation_key(root, account, id), 'mixed')
  end
end

-- A claim of a suspect costs its account a stride, like any other claim, though the suspect was not in the lane.
local function charge_stride(root, account, lane)
  local stride = load_stride(root, account)
  if redis.call('ZSCORE', lane_key(root, lane), account) then
    redis.call('ZINCRBY', lane_key(root, lane), stride, account)
    return
  end
  local clock = tonumber(redis.call('HGET', clocks_key(root), lane) or 0)
  local left_at = tonumber(redis.call('HGET', account_totals_key(root, account), 'left_' .. lane) or 0)
  redis.call('HSET', account_totals_key(root, account), 'left_' .. lane, int(math.max(clock, left_at) + stride))
end
