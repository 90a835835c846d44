-- rotate_webhook_secret: give an account a new secret; the former one signs, too, for a while.
-- ASK      account, secret, request (its id; the same again rotates nothing), former_ms
-- RETURNS  1 if the secret is the account's now, 0 if an earlier call of the request has set another
-- ATOMIC   because a rotation that happened twice would end the validity of the secret that the receiver knows.

local function rotate_webhook_secret(root, ask)
  local key = webhook_key(root, ask.account)
  local secret, rotated = unpack(redis.call('HMGET', key, 'secret', 'rotated'))
  if rotated == ask.request then return secret == ask.secret and 1 or 0 end
  if secret then redis.call('HSET', key, 'former', secret, 'former_until', int(now_ms() + ask.former_ms)) end
  redis.call('HSET', key, 'secret', ask.secret, 'rotated', ask.request)
  return 1
end

register('rotate_webhook_secret', rotate_webhook_secret)
