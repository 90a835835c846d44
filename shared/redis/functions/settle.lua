-- settle: end a generation with the result of its attempt.
-- ASK      account, id, attempt, seq (of the last event), stage, blob (the assistant's message record), event (the last
--          one, JSON), cost (microcredits), keep; if any: events (not yet appended, JSON each), through (the stage they
--          lead through), meter (model, input, output, reasoning tokens), failure, history ({tokens that the turn adds,
--          tokens read before it, whether those are all}), chosen (the model asked last)
-- RETURNS  {'settled', captured microcredits, perhaps what its worker shall do: 1 fill the account's window, 2 pack a
--          chunk of a batch, 3 both, 4 deliver the event of the end} or {'refused'}
-- ATOMIC   because the message, the charge, the stage, the last event and the session's next turn are stored together.
--          The same attempt again finds that it is settled.

local DURATIONS_KEPT, DURATIONS_MAX = 128, 160

local function finish_attempt(root, ask, record, now)
  return finish_generation(root, ask.account, ask.id, record, {
    stage = ask.stage, assistant = ask.blob, event = ask.event, cost = ask.cost, keep = ask.keep,
    meter = ask.meter, failure = ask.failure, chosen = ask.chosen, history = ask.history,
    events = ask.events,
    epoch = ask.attempt, seq = ask.seq, now = now,
  })
end

local function settle(root, ask)
  local record = load_generation(root, ask.account, ask.id)
  if not record or tonumber(record.attempt) ~= ask.attempt then return {'refused'} end
  local fault = damage.find_fault(record)
  if fault then
    damage.set_aside(root, ask.account, ask.id, fault)
    return {'refused'}
  end
  if is_final(record) then
    if record.last == int(ask.attempt) .. '-' .. int(ask.seq) then
      return {'settled', tonumber(record.captured)}
    end
    return {'refused'}
  end
  if not redis.call('ZSCORE', leases_key(root), member(ask.account, ask.id)) then return {'refused'} end
  if ask.through and ask.through ~= record.stage then
    check_transition(record, ask.through)
    record.stage = ask.through
  end
  check_transition(record, ask.stage)
  local now = now_ms()
  local is_done, captured, hint = pcall(finish_attempt, root, ask, record, now)
  if not is_done then
    damage.set_aside_or_raise(root, ask.account, ask.id, captured)
    return {'refused'}
  end
  if ask.stage == 'completed' then
    local key = durations_key(root, record.model)
    local length = redis.pcall('LPUSH', key, int(math.max(0, now - (tonumber(record.started) or now))))
    if type(length) ~= 'number' then
      redis.call('DEL', key)
    else
      if length > DURATIONS_MAX then redis.call('LTRIM', key, 0, DURATIONS_KEPT - 1) end
      -- The list of durations lives a week after its last answer; in a long list every eighth answer renews that.
      if length <= 32 or length % 8 == 0 then redis.call('PEXPIRE', key, '604800000') end
    end
  end
  return {'settled', captured, hint}
end

register('settle', settle)
