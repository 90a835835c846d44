-- What the functions share: the queue's moves, and the one way a generation ends.
--
-- Above this text stand, rendered from Python: one <name>_key(root, ...) for each family of keys.py that is shared,
-- TRANSITIONS of lifecycle.py, the failures EXPIRED, CRASHED and CANCELLED, DEAD_CATEGORIES (of failures that leave a
-- dead letter), AUTO (the word for a model that was not named), the events RESET (drops what was told) and RETRYING,
-- COMPANION_WIRE, LANE_BELL_WIRE and WIRE_BELL of submission.py, and TURNS_PER_CHUNK.
--
-- Every function takes a root (KEYS[1]) and one msgpack map, `ask`, and touches keys of that root only. Each checks all
-- before it writes anything, because nothing is rolled back, and may be repeated when its reply was lost.

-- What is no hash is no record.
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

-- How many an account has under way, and how many of these are of one lane.
local function count_unfinished(root, account, lane)
  local interactive_count = redis.call('ZCARD', unfinished_key(root, account, 'interactive'))
  local batch = redis.call('ZCARD', unfinished_key(root, account, 'batch'))
  return interactive_count + batch, lane == 'batch' and batch or interactive_count
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

local function turns_chunk_key(root, account, session, turn)
  return turns_key(root, account, session, int(math.floor(turn / TURNS_PER_CHUNK)))
end
