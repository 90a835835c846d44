-- Suspects: what a worker held when it died, any of which may be why it died. Shared, after the preamble and the lines.
--
-- Nobody can tell which one it was, so the first death counts against none of them. The record of a suspect has
-- `falls`, the deaths of workers that held it; `crashes`, those that it alone can have caused; and `company`: how many
-- suspects, itself among them, may run in one worker while it does. At first that is as many as the dead worker held,
-- so that all of it runs again at once; each further death leaves a quarter. With a company of 1, it runs beside
-- generations that nobody suspects, is the only suspect of its worker, and a death counts against it alone. (0 says
-- that it fell alone, as far as this partition knows: with the next death that it causes, the first one counts too.)
-- What ends an attempt in any other way is a suspect no longer. `crashes` without `company` was counted by an older
-- process: such a one runs as the only suspect.
--
-- When workers die so fast that no generation explains it, as when somebody kills them, a few deaths say little: for
-- as long, suspects run together (`mixed`), and no death is counted against one of them. One that fell too often even
-- for such a time runs by itself nevertheless.
--
-- A suspect that waits stands among the deferred, where older workers find it after a while, and in a line of its
-- own, from which claims take it at once.

-- One local name instead of nine: Lua knows 200 at once.
local SUSPECTS = {}

SUSPECTS.FALLBACK_MS = 5000
-- In the line of suspects, batches stand behind all others.
SUSPECTS.BATCH_OFFSET = 1000000000000
SUSPECTS.SUSPECTS_SHRINK_FACTOR = 4
-- Deaths in a partition, of which one is forgotten in so long; more than so many are a storm, which lasts so long.
SUSPECTS.STORM_DEATHS, SUSPECTS.DEATH_FORGOTTEN_MS, SUSPECTS.STORM_MS = 4, 2000, 5000
-- So long after a death was counted against a generation that then completed.
SUSPECTS.ACQUITTED_MS = 60000
SUSPECTS.STORM_FALLS_MAX = 8
-- Of deaths in a row that may be a neighbour's doing, so many count as upstream calls: they must not cost a message all
-- the calls that it may take.
SUSPECTS.CALLS_LOST_MAX = 2

local function is_storm(root, now)
  return now < tonumber(redis.call('HGET', clocks_key(root), 'storm') or 0)
end

-- Workers died just now.
local function record_deaths(root, count, now)
  local key = clocks_key(root)
  local known = redis.call('HMGET', key, 'deaths', 'died')
  local since = math.max(0, now - tonumber(known[2] or 0))
  local deaths = math.min(math.max(0, tonumber(known[1] or 0) - since / SUSPECTS.DEATH_FORGOTTEN_MS) + count, 2 * SUSPECTS.STORM_DEATHS)
  redis.call('HSET', key, 'deaths', string.format('%.3f', deaths), 'died', int(now))
  if deaths <= SUSPECTS.STORM_DEATHS then return end
  local ends = math.max(tonumber(redis.call('HGET', key, 'storm') or 0), now + SUSPECTS.STORM_MS)
  redis.call('HSET', key, 'storm', int(ends))
end

-- One that completed has killed nobody. Where a death was counted against it, workers die of something else than what
-- they run: for a while that is as in a storm.
extend_storm_if_blamed = function(root, record, now)
  if tonumber(record.crashes) <= 0 then return end
  local ends = math.max(tonumber(redis.call('HGET', clocks_key(root), 'storm') or 0), now + SUSPECTS.ACQUITTED_MS)
  redis.call('HSET', clocks_key(root), 'storm', int(ends))
end

-- How many suspects may run beside this record, itself among them; nil for one that is no suspect.
local function suspects_max_of(record)
  return record.crashes and math.max(1, tonumber(record.company) or 1)
end

local function join_suspects(root, account, id, record)
  local name, place = member(account, id), tonumber(record.number)
  if record.lane == 'batch' then place = place + SUSPECTS.BATCH_OFFSET end
  redis.call('ZADD', deferred_key(root), int(now_ms() + SUSPECTS.FALLBACK_MS), name)
  redis.call('ZADD', suspects_key(root), int(place), name)
  wake_worker(root, record.lane, record.wire)
end

local function has_suspects(root, lane)
  local low, high = '-inf', '(' .. int(SUSPECTS.BATCH_OFFSET)
  if lane == 'batch' then low, high = int(SUSPECTS.BATCH_OFFSET), '+inf' end
  return redis.call('ZCOUNT', suspects_key(root), low, high) > 0
end

-- Each that waits goes where claims look for it.
enqueue = function(root, account, id, record)
  if record.crashes then
    join_suspects(root, account, id, record)
  else
    make_ready(root, account, id, record.lane, record.number, record.wire)
  end
end

local function falls_of(record) return tonumber(record.falls) or 0 end

-- An attempt died in a worker that held so many. Returns how many deaths are counted against the generation now.
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
  -- What an attempt that dies has called is not stored. One that had got to calling had one call under way.
  local is_own = falls <= SUSPECTS.CALLS_LOST_MAX or crashes > tonumber(record.crashes or 0)
  local calls = tonumber(record.calls or 0) + (is_own and record.stage == 'generating' and 1 or 0)
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
local UNLIMITED_SUSPECTS = 1000000

-- How many suspects may run in one worker with this one: 0 for one that nobody suspects.
local function suspects_max_in(group, record)
  local company = suspects_max_of(record)
  if not company then return 0 end
  if group.is_stormy and falls_of(record) <= SUSPECTS.STORM_FALLS_MAX then return UNLIMITED_SUSPECTS end
  return company
end

-- Nothing joins the only suspect of a worker, against which the worker's death would count.
local function can_join(group, company)
  if company == 0 then return true end
  if company == UNLIMITED_SUSPECTS then return group.held == 0 or group.suspects_max > 1 end
  return group.held + 1 <= math.min(group.suspects_max, company)
end

-- It may be taken. Whether it runs in any company is kept with it, for the time when its worker has died.
local function join_group(root, group, account, id, record, company)
  if company == 0 then return end
  group.held, group.suspects_max = group.held + 1, math.min(group.suspects_max, company)
  if company == UNLIMITED_SUSPECTS then
    redis.call('HSET', generation_key(root, account, id), 'mixed', '1')
  elseif record.mixed then
    redis.call('HDEL', generation_key(root, account, id), 'mixed')
  end
end

-- A suspect pays for its claim as any other generation of its account, though it does not stand in the lane.
local function charge_stride(root, account, lane)
  local stride = load_stride(root, account)
  if redis.call('ZSCORE', lane_key(root, lane), account) then
    redis.call('ZINCRBY', lane_key(root, lane), stride, account)
    return
  end
  local clock = tonumber(redis.call('HGET', clocks_key(root), lane) or 0)
  local left = tonumber(redis.call('HGET', account_totals_key(root, account), 'left_' .. lane) or 0)
  redis.call('HSET', account_totals_key(root, account), 'left_' .. lane, int(math.max(clock, left) + stride))
end
