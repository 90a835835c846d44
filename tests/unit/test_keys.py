"""Keys: made in one place, alike in Python and in Lua."""

import hashlib
import re

import pytest

from shared.redis import keys, library
from shared.redis.keys import Key
from shared.settings import RedisSettings

SETTINGS = RedisSettings(prefix="pollux", partitions=12)
ROOT = keys.partition_root(SETTINGS, 7)


def test_a_root_has_the_hash_tag_of_its_partition() -> None:
    assert ROOT == "pollux:{p07}:"
    assert keys.partition_root(SETTINGS, 11) == "pollux:{p11}:"
    assert keys.system_root(SETTINGS) == "pollux:{sys}:"


def test_a_name_is_the_root_and_the_filled_in_pattern() -> None:
    assert keys.GENERATION(ROOT, "ann", "g1") == "pollux:{p07}:generation:ann:g1"
    assert keys.TURNS(ROOT, "ann", "s1", 3) == "pollux:{p07}:turns:ann:s1:3"
    assert keys.LEASES(ROOT) == "pollux:{p07}:leases"
    with pytest.raises(TypeError):
        keys.GENERATION(ROOT, "ann")


@pytest.mark.parametrize("name", list(keys.FAMILIES))
def test_every_name_is_recognised_as_its_own_family(name: str) -> None:
    key = keys.FAMILIES[name]
    made = key(ROOT, *(f"{part}-1" for part in key.parts))
    assert keys.family_of(ROOT, made) is key


def test_no_two_families_can_make_the_same_name() -> None:
    shapes = [re.sub(r"<[a-z_]+>", "x", key.pattern) for key in keys.FAMILIES.values()]
    assert len(set(shapes)) == len(shapes)
    for key in keys.FAMILIES.values():
        made = key(ROOT, *("x" for _ in key.parts))
        fits = [
            other
            for other in keys.FAMILIES.values()
            if re.fullmatch(re.sub(r"<[a-z_]+>", "[^:]+", other.pattern), made.removeprefix(ROOT))
        ]
        assert fits == [key]


def test_other_names_have_no_family() -> None:
    for stranger in ("stray", "generation", "generation:ann", "leases:x"):
        assert keys.family_of(ROOT, f"{ROOT}{stranger}") is None


def test_lua_makes_the_same_pieces() -> None:
    assert Key("a:<b>:c:<d>", holds="", end="ttl").lua("a") == (
        "local function a_key(root, b, d) return root .. 'a:' .. b .. ':c:' .. d end"
    )


def test_every_family_describes_its_value() -> None:
    assert all(key.holds for key in keys.FAMILIES.values())


def test_the_library_is_named_by_its_digest() -> None:
    name, text = library.render()
    body = text.partition(f"local LIBRARY = '{name}'\n")[2]
    assert name == f"pollux_{hashlib.sha256(body.encode()).hexdigest()[:12]}"
    assert text.startswith(f"#!lua name={name}\n")


def test_the_library_has_what_is_rendered_from_python() -> None:
    assert "['generating'] = true" in library.TEXT
    assert '["' not in library.TEXT.split("local function register")[0]
    assert f"local TURNS_PER_CHUNK = {keys.TURNS_PER_CHUNK}" in library.TEXT
