-- Shared: an account's log, to which whoever ends something adds an event, in the same call.
-- The form of an entry is described in shared/wire/account_event.py.

local account_log = {renewed = {}, renewed_count = 0}

account_log.NOBODY, account_log.RENEW_MS, account_log.RENEWED_MAX = '-', 3600000, 4096
-- How far logs reach, until a caller that knows the settings has said so.
account_log.keep_ms = 2592000000

-- Removes what is older than the log reaches, in whole nodes, and lets the log expire with its last event. Once an hour
-- for each log is enough, so that a plain end costs one command; after a restart the first end does it again.
function account_log.renew(key, now, keep_ms)
  account_log.keep_ms = keep_ms or account_log.keep_ms
  if account_log.renewed_count >= account_log.RENEWED_MAX then
    account_log.renewed, account_log.renewed_count = {}, 0
  end
  if not account_log.renewed[key] then account_log.renewed_count = account_log.renewed_count + 1 end
  -- Redis removes some ten thousand at once: where it has removed any, the next event looks again.
  local removed = redis.call('XTRIM', key, 'MINID', '~', int(math.max(0, now - account_log.keep_ms)))
  account_log.renewed[key] = removed == 0 and now or 0
  -- Until the next renewal, an event may be added that has to stay as long as the log reaches.
  redis.call('PEXPIRE', key, int(account_log.keep_ms + 2 * account_log.RENEW_MS))
end

-- Returns whether somebody receives the event: the request itself, or the account (`is_watched` may say so already).
function account_log.is_reported(root, account, about)
  if about.webhook_url then return true end
  if about.is_watched ~= nil then return about.is_watched end
  return webhooks.is_watched(root, account)
end

-- Adds an event; returns its id, and whether somebody receives it. `about` holds: now and, if known, keep_ms (how far
-- the log reaches), actor (the id of an API key), webhook_url (of the request itself) and is_watched (whether the
-- account has a webhook). It is the last write of an end, and is never refused for what the key holds: what replaced
-- the log is dropped.
function account_log.append(root, account, type_name, subject, about)
  local key, entry = account_log_key(root, account), (EVENT_CODES[type_name] or type_name) .. ' ' .. subject
  if about.webhook_url then entry = entry .. ' ' .. cjson.encode({webhook_url = about.webhook_url}) end
  local actor = about.actor
  if not actor or actor == '' then actor = account_log.NOBODY end
  local id = redis.pcall('XADD', key, '*', actor, entry)
  if type(id) ~= 'string' then
    if not string.find(id.err, 'WRONGTYPE', 1, true) then error(id, 0) end
    redis.call('DEL', key)
    account_log.renewed[key] = nil
    id = redis.call('XADD', key, '*', actor, entry)
  end
  local now = about.now
  local is_reported = account_log.is_reported(root, account, about)
  if is_reported then webhooks.note_event(root, account, id, now) end
  if now - (account_log.renewed[key] or 0) >= account_log.RENEW_MS then account_log.renew(key, now, about.keep_ms) end
  return id, is_reported
end

-- Adds the end of a generation; returns whether somebody receives it. An item of a batch has its end in the batch's.
function account_log.append_end(root, account, id, generation, stage, now, keep, is_watched)
  if generation.batch then return end
  local _, is_reported = account_log.append(root, account, 'generation.' .. stage, id, {
    now = now, keep_ms = keep and keep[5], actor = generation.key, webhook_url = generation.webhook,
    is_watched = is_watched,
  })
  return is_reported
end
