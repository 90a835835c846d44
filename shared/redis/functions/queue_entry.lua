-- Shared: the one way in which a new generation enters the queue, for `accept` and `retry_dead_letter`, and for the
-- items of a batch, whose places in the queue `enqueue_items` writes for all of them at once.

-- Writes a generation's records and its place in the queue: ready if it has no session or is the head of it, else
-- waiting behind it. `entry` names account, session, generation, lane, model, wire, hold, key (the API key's id) and
-- blob (the submission); if any: added, origin, webhook and idempotency. The caller has checked everything, has given
-- the session its turn and taken the hold; `accepted` and `deadline` are in ms, and `before` describes what comes
-- first. Where `batch` says which item it is, only the records are written.
local function enter_queue(root, entry, message, turn, number, accepted, deadline, is_head, is_in_lane, before, batch)
  local account, id = entry.account, entry.generation
  local chunk = turns_chunk_key(root, account, entry.session, turn)
  turn = int(turn)
  redis.call('HSET', chunk, turn .. ':u', message)
  if has_no_session(id, entry) then redis.call('PEXPIRE', chunk, int(deadline - accepted + OWN_TURN_KEPT_MS)) end
  redis.call('SET', submission_key(root, account, id), entry.blob)
  local more = {}
  if entry.origin then more[1], more[2] = 'origin', entry.origin end
  if before then more[#more + 1], more[#more + 2] = 'before', before end
  if entry.webhook then more[#more + 1], more[#more + 2] = 'webhook', entry.webhook end
  if entry.idempotency then more[#more + 1], more[#more + 2] = 'idempotency', entry.idempotency end
  if batch then more[#more + 1], more[#more + 2] = 'batch', batch end
  redis.call('HSET', generation_key(root, account, id), 'stage', 'queued', 'session', entry.session, 'turn', turn,
    'lane', entry.lane, 'model', entry.model, 'wire', int(entry.wire), 'number', number, 'accepted', accepted,
    'deadline', deadline, 'hold', int(entry.hold), 'attempt', '0', 'key', entry.key,
    'added', int(entry.added or 0), unpack(more))
  if batch then return end
  redis.call('ZADD', deadlines_key(root), deadline, member(account, id))
  redis.call('ZADD', unfinished_key(root, account, entry.lane), number, id)
  if is_head then
    make_ready(root, account, id, entry.lane, number, entry.wire, is_in_lane)
  else
    redis.call('ZADD', waiting_key(root, account, entry.session), turn, id)
  end
end
