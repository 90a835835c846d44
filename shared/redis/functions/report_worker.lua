-- report_worker: a worker reports that it is alive, or that it stops.
-- ASK      worker, models (that it serves), blob (its report; empty when it stops), alive_ms, forget_ms; of its calls
--          to providers, if any: lease_ms, slots = {{provider, lane, call}...} and probes = {{circuit, call}...} (under
--          way), answered = {{circuit, how many since the last report}...}, window_ms (in which they count); of
--          complete answers: lengths = {{model, how many since the last report, their bytes}...}
-- RETURNS  {how many workers are alive, {model (that is served, or was lately)...},
--          {{circuit, its breaker's state, ms left, why}... (that are not closed)}, 1 if the worker was not known,
--          {circuit (that is throttled)...}, {bytes of an average answer (0: unknown) of each of its models...}}
-- ATOMIC   because the count and the lists must agree, and live workers remove dead ones.
-- A model that nobody serves is forgotten after a time in which other workers reported: when none could, it gets that
-- time again. No two reports of a worker are equal: one that is stored already was sent again, and its calls were
-- counted.

local function remove_worker(root, worker)
  redis.call('ZREM', report_times_key(root), worker)
  redis.call('HDEL', worker_reports_key(root), worker)
end

local function renew_probe(root, circuit, call, now, lease_ms)
  local key = breaker_key(root, circuit)
  local probe, lease = unpack(redis.call('HMGET', key, 'probe', 'lease'))
  if lease and probe == call then redis.call('HSET', key, 'lease', int(now + lease_ms)) end
end

local function count_answered(root, circuit, count, now, window_ms)
  local key = successes_key(root, circuit, int(window_slot(now, window_ms)))
  redis.call('INCRBY', key, count)
  redis.call('PEXPIRE', key, int(2 * window_ms))
end

-- The weight of one answer in the average: about the last twenty count.
local ANSWER_WEIGHT = 0.05

local function record_length(root, model, count, bytes)
  local known, average = tonumber(redis.call('HGET', answer_lengths_key(root), model)), bytes / count
  if known then average = known + (average - known) * (1 - (1 - ANSWER_WEIGHT) ^ count) end
  redis.call('HSET', answer_lengths_key(root), model, int(average))
end

local function average_lengths(root, models)
  local found = models[1] and redis.call('HMGET', answer_lengths_key(root), unpack(models)) or {}
  for i = 1, #models do found[i] = tonumber(found[i] or 0) end
  return found
end

local function record_calls(root, ask, now)
  for _, slot in ipairs(ask.slots or {}) do lease_slot(root, slot[1], slot[2], slot[3], now, ask.lease_ms) end
  for _, probe in ipairs(ask.probes or {}) do renew_probe(root, probe[1], probe[2], now, ask.lease_ms) end
  if redis.call('HGET', worker_reports_key(root), ask.worker) == ask.blob then return end
  for _, each in ipairs(ask.answered or {}) do
    count_answered(root, each[1], each[2], now, ask.window_ms)
  end
  for _, each in ipairs(ask.lengths or {}) do record_length(root, each[1], each[2], each[3]) end
end

-- A circuit that nobody asked for until its breaker's record expired is closed.
local function list_open_circuits(root, now)
  local found = {}
  for _, circuit in ipairs(redis.call('ZRANGE', cooling_key(root), 0, -1)) do
    local state, left, why = unpack(read_breaker(root, circuit, now))
    if state == 'closed' then
      redis.call('ZREM', cooling_key(root), circuit)
    else
      table.insert(found, {circuit, state, left, why})
    end
  end
  return found
end

local function list_throttled(root, now)
  redis.call('ZREMRANGEBYSCORE', throttles_key(root), '-inf', int(now))
  return redis.call('ZRANGE', throttles_key(root), 0, -1)
end

local function renew_served(root, now)
  for _, model in ipairs(redis.call('ZRANGE', served_models_key(root), 0, -1)) do
    redis.call('ZADD', served_models_key(root), int(now), model)
  end
end

local function report_worker(root, ask)
  local report_times, served, now = report_times_key(root), served_models_key(root), now_ms()
  local forget_before, is_new = int(now - ask.forget_ms), 0
  if ask.blob == '' then
    remove_worker(root, ask.worker)
  else
    record_calls(root, ask, now)
    if redis.call('ZCOUNT', report_times, int(now - ask.alive_ms), '+inf') == 0 then renew_served(root, now) end
    is_new = redis.call('ZADD', report_times, int(now), ask.worker)
    redis.call('HSET', worker_reports_key(root), ask.worker, ask.blob)
    -- Reports in the future were stored before the clock was set back: live workers report again within a second.
    for _, worker in ipairs(redis.call('ZRANGE', report_times, '(' .. int(now), '+inf', 'BYSCORE')) do
      redis.call('ZADD', report_times, int(now), worker)
    end
    for _, model in ipairs(ask.models) do redis.call('ZADD', served, int(now), model) end
    -- Only while a worker is alive: what the last one served stays known until others start.
    redis.call('ZREMRANGEBYSCORE', served, '-inf', forget_before)
  end
  for _, worker in ipairs(redis.call('ZRANGE', report_times, '-inf', forget_before, 'BYSCORE')) do
    remove_worker(root, worker)
  end
  local living = redis.call('ZCOUNT', report_times, int(now - ask.alive_ms), '+inf')
  return {living, redis.call('ZRANGE', served, 0, -1), list_open_circuits(root, now), is_new,
    list_throttled(root, now), average_lengths(root, ask.models)}
end

register('report_worker', report_worker)
