-- list_workers: who lives, and which models are served, or were lately.
-- ASK      alive_ms (a silence longer than that is none of the living)
-- RETURNS  {{model...}, pulse...}
-- ATOMIC   no need; it is one look instead of three round trips.

local function list_workers(root, ask)
  local answer = {redis.call('ZRANGE', served_models_key(root), 0, -1)}
  for _, worker in ipairs(redis.call('ZRANGE', report_times_key(root), int(now_ms() - ask.alive_ms), '+inf', 'BYSCORE')) do
    table.insert(answer, redis.call('HGET', worker_reports_key(root), worker))
  end
  return answer
end

register('list_workers', list_workers, true)
