-- list_workers: return the reports of live workers, and the models that are served, or were lately.
-- ASK      alive_ms (a worker that has not reported for so long is not alive)
-- RETURNS  {{model...}, report...}
-- ATOMIC   no need; it is one round trip instead of three.

local function list_workers(root, ask)
  local answer = {redis.call('ZRANGE', served_models_key(root), 0, -1)}
  local since = int(now_ms() - ask.alive_ms)
  for _, worker in ipairs(redis.call('ZRANGE', report_times_key(root), since, '+inf', 'BYSCORE')) do
    table.insert(answer, redis.call('HGET', worker_reports_key(root), worker))
  end
  return answer
end

register('list_workers', list_workers, true)
