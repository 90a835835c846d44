-- Shared: reading a generation's record, and which stage may follow which.
--
-- Above the shared texts stand, rendered from Python by library.py: one <name>_key(root, ...) for each family of
-- keys.py that they use; TRANSITIONS and STORED_AS of lifecycle.py; the failures EXPIRED, CRASHED, DAMAGED and
-- CANCELLED; DEAD_CATEGORIES (failures that leave a dead letter); AUTO (the model's name where the caller named none);
-- the events RESET (followers drop the text so far) and STAGE_EVENTS; and the numbers that both languages use.
--
-- Every function gets a root (KEYS[1]) and one msgpack map, `ask`, and touches only keys below that root. Redis rolls
-- nothing back, so a function checks everything before its first write; and it may be called again with the same `ask`
-- when its reply was lost.

-- Returns a hash as a table; nil where the key is missing or holds another type.
local function load_hash(key)
  local flat = redis.pcall('HGETALL', key)
  if flat.err then
    if not string.find(flat.err, 'WRONGTYPE', 1, true) then error(flat, 0) end
    return nil
  end
  if #flat == 0 then return nil end
  local record = {}
  for i = 1, #flat, 2 do record[flat[i]] = flat[i + 1] end
  return record
end

local function load_generation(root, account, id) return load_hash(generation_key(root, account, id)) end

-- Returns how many unfinished generations an account has in all, and how many of them in one lane.
local function count_unfinished(root, account, lane)
  local interactive_count = redis.call('ZCARD', unfinished_key(root, account, 'interactive'))
  local batch = redis.call('ZCARD', unfinished_key(root, account, 'batch'))
  return interactive_count + batch, lane == 'batch' and batch or interactive_count
end

-- Returns a generation's record. Where it is damaged, it is set aside; then, and where there is none, returns nil and
-- whether there was one.
function damage.load_sound(root, account, id)
  local record = load_generation(root, account, id)
  local fault = record and damage.find_fault(record)
  if not fault then return record or nil, false end
  damage.set_aside(root, account, id, fault)
  return nil, true
end

local function count_waiting(root, account, session)
  return redis.call('ZCARD', waiting_key(root, account, session))
end

local function is_final(generation) return next(TRANSITIONS[generation.stage]) == nil end

local function check_transition(generation, stage)
  if not TRANSITIONS[generation.stage][stage] then
    error('ILLEGAL ' .. generation.stage .. ' to ' .. stage)
  end
end

-- The chunk that holds a generation's two messages. A generation without a session has its own id in the session's
-- place and turn 1: its messages stand where those of such a session would, in a chunk of its own that expires with its
-- record. No session of that id exists, so nothing lists it, waits behind it or adds its bytes to a quota.
local function turns_chunk_key(root, account, session, turn)
  return turns_key(root, account, session, int(math.floor(turn / TURNS_PER_CHUNK)))
end

local function has_no_session(id, generation) return generation.session == id end

-- Whoever ends a generation without a session sets the end of its messages. A process of a version that knows only
-- sessions does not, so until then they expire so long after the deadline.
local OWN_TURN_KEPT_MS = 604800000
