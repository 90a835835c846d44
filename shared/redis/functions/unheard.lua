-- What the functions share: claims whose reply was lost. After what is done about damaged records.

local function give_back_one(root, account, id, ask, is_unheard)
  local worker, number = unpack(redis.call('HMGET', generation_key(root, account, id), 'worker', 'claim'))
  if worker ~= ask.worker or not is_unheard[number] then return end
  local record = load(root, account, id)
  damage.check(record)
  if record.cancel then
    end_from_outside(root, account, id, record, 'cancelled', CANCELLED, ask.keep)
  else
    give_back(root, account, id, record, 'UNHEARD')
  end
end

local function give_back_unheard(root, ask)
  local is_unheard = {}
  for _, number in ipairs(ask.unheard) do is_unheard[tostring(number)] = true end
  for _, name in ipairs(redis.call('ZRANGE', leases_key(root), 0, -1)) do
    damage.guarded(root, name, give_back_one, ask, is_unheard)
  end
end
