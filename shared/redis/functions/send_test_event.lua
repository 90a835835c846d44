-- send_test_event: add an event to the account's log that only tests its webhook.
-- ASK      account, request (its id, which is the event's subject; the same again adds nothing), key (the API key's
--          id), log_ms (how far the log reaches); if given: idempotency
-- RETURNS  {'sent', the event's id} or {'unknown'}: there is no webhook, or its receiver wants no more
-- ATOMIC   because a repeated request must not send a second event.

local function send_test_event(root, ask)
  local key = webhook_key(root, ask.account)
  local url, disabled, tested, event = unpack(redis.call('HMGET', key, 'url', 'disabled', 'tested', 'test'))
  if tested == ask.request then return {'sent', event} end
  local first = webhooks.first_answer(root, ask.account, ask.idempotency, ask.request)
  if first then return {'sent', first} end
  if not url or disabled then return {'unknown'} end
  event = account_log.append(root, ask.account, 'webhook.test', ask.request, {
    now = now_ms(), keep_ms = ask.log_ms, actor = ask.key, is_watched = true,
  })
  redis.call('HSET', key, 'tested', ask.request, 'test', event)
  webhooks.note_answer(root, ask.account, ask.idempotency, ask.request, event)
  return {'sent', event}
end

register('send_test_event', send_test_event)
