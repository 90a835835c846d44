-- rotate_webhook_secret: give an account a new secret; former ones sign, too, for a while each.
-- ASK      account, secret, request (its id; the same again rotates nothing), former_ms; if given: idempotency
-- RETURNS  1 if the secret is the account's now, 0 if an earlier call of the request has set another
-- ATOMIC   because a rotation that happened twice would end the validity of the secret that the receiver knows.

local function rotate_webhook_secret(root, ask)
  local key = webhook_key(root, ask.account)
  local secret, rotated, former, former_until, earlier = unpack(redis.call('HMGET', key, 'secret', 'rotated', 'former',
    'former_until', 'earlier'))
  local first = webhooks.first_answer(root, ask.account, ask.idempotency, ask.request)
  if first or rotated == ask.request then return secret == ask.secret and 1 or 0 end
  if former then
    -- The oldest are left out beyond what signs at once: one is new, and one is the former.
    local kept = {former .. ' ' .. former_until}
    for each in string.gmatch(earlier or '', '%S+ %d+') do
      if #kept < webhooks.SECRETS_MAX - 2 then kept[#kept + 1] = each end
    end
    redis.call('HSET', key, 'earlier', table.concat(kept, ' '))
  end
  if secret then redis.call('HSET', key, 'former', secret, 'former_until', int(now_ms() + ask.former_ms)) end
  redis.call('HSET', key, 'secret', ask.secret, 'rotated', ask.request)
  webhooks.note_answer(root, ask.account, ask.idempotency, ask.request, '1')
  return 1
end

register('rotate_webhook_secret', rotate_webhook_secret)
