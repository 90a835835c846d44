-- discard_dead_letters: delete dead letters.
-- ASK      names ({account, id} each)
-- RETURNS  {1 or 0...}: whether each was there
-- ATOMIC   because a letter and its place in the list are deleted together.

local function discard_dead_letters(root, ask)
  local deleted = {}
  for _, name in ipairs(ask.names) do
    table.insert(deleted, delete_dead_letter(root, name[1], name[2]) and 1 or 0)
  end
  return deleted
end

register('discard_dead_letters', discard_dead_letters)
