-- check_types: find the keys that hold another type than they should.
-- ASK      keys = {{name, type, 1 if it can be rebuilt}...}
-- RETURNS  {{name, the type that it should have, the type that it has, 1 if it was removed}...} for those that are
--          wrong
-- ATOMIC   because a key that is removed must be the one that was checked.
-- A key that can be rebuilt is removed; any other stays, since only an operator knows whose it is.

local function check_types(root, ask)
  local wrong = {}
  for _, key in ipairs(ask.keys) do
    local name, expected, is_rebuildable = key[1], key[2], key[3] == 1
    local found = redis.pcall('TYPE', name).ok
    if string.sub(name, 1, #root) == root and found and found ~= 'none' and found ~= expected then
      if is_rebuildable then redis.call('UNLINK', name) end
      table.insert(wrong, {name, expected, found, is_rebuildable and 1 or 0})
    end
  end
  return wrong
end

register('check_types', check_types)
