-- Shared: dead letters are written, trimmed and deleted.

-- Deletes a dead letter and its place in the list. Returns whether there was one.
local function delete_dead_letter(root, account, id)
  local is_listed = redis.call('ZREM', dead_letters_key(root), member(account, id))
  return is_listed + redis.call('UNLINK', dead_letter_key(root, account, id)) > 0
end

-- Deletes the oldest dead letters: those past their time, and those beyond the most that are kept. At most TRIMMED_MAX
-- in one call, because the server serves nobody meanwhile.
local TRIMMED_MAX = 100

local function trim_dead_letters(root, now, keep)
  local key, dead_ms, dead_max = dead_letters_key(root), keep[3], keep[4]
  local excess = redis.call('ZCARD', key) - dead_max
  local oldest = redis.call('ZRANGE', key, 0, TRIMMED_MAX - 1, 'WITHSCORES')
  for i = 1, #oldest, 2 do
    if tonumber(oldest[i + 1]) > now - dead_ms and excess <= 0 then return end
    delete_dead_letter(root, split(oldest[i]))
    excess = excess - 1
  end
end

-- Keeps a generation that failed for no fault of its caller, with all that retrying it needs.
local function write_dead_letter(root, account, id, generation, ending)
  local key, failure = dead_letter_key(root, account, id), ending.failure
  redis.call('HSET', key, 'session', generation.session, 'turn', generation.turn, 'lane', generation.lane,
    'model', generation.model, 'wire', generation.wire, 'attempt', generation.attempt, 'hold', generation.hold,
    'key', generation.key or '', 'accepted', generation.accepted, 'died', int(ending.now),
    'deadline', int(tonumber(generation.deadline) - tonumber(generation.accepted) - stages.waited_ms(generation)),
    'failure', cmsgpack.pack(failure),
    'attempts', record_attempt(root, account, id, generation, failure.code, ending.now),
    'submission', redis.call('GET', submission_key(root, account, id)) or '',
    'message', redis.call('HGET', turns_chunk_key(root, account, generation.session, generation.turn),
      generation.turn .. ':u') or '')
  if generation.webhook then redis.call('HSET', key, 'webhook', generation.webhook) end
  if ending.chosen then redis.call('HSET', key, 'chosen', ending.chosen) end
  if generation.batch then redis.call('HSET', key, 'batch', generation.batch) end
  redis.call('PEXPIRE', key, int(ending.keep[3]))
  redis.call('ZADD', dead_letters_key(root), int(ending.now), member(account, id))
  trim_dead_letters(root, ending.now, ending.keep)
end
