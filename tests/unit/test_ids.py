"""Ids and API keys: their form, their randomness, and what is not one."""

import string

import pytest
from hypothesis import given, strategies as st

from shared import ids

LETTERS_AND_DIGITS = set(string.ascii_letters + string.digits)


def test_ids_are_short_alphanumeric_and_unique() -> None:
    made = [ids.new_id() for _ in range(5_000)]
    assert len(set(made)) == len(made)
    assert {len(one) for one in made} == {23}
    assert set("".join(made)) == LETTERS_AND_DIGITS
    assert all(ids.is_id(one) for one in made)


@pytest.mark.parametrize(
    "text", ["", "a b", "a:b", "a/b", "é", "a\n", "\n", "x" * 65, "{p00}", "a\x00b", "*", "²"]
)
def test_texts_that_would_break_a_redis_key_are_no_ids(text: str) -> None:
    assert not ids.is_id(text)


def test_keys_carry_their_prefix_and_a_checksum() -> None:
    key = ids.new_key()
    assert key.startswith(ids.KEY_PREFIX)
    assert len(key) == len(ids.KEY_PREFIX) + 33
    assert ids.is_key(key)
    assert len({ids.new_key() for _ in range(1_000)}) == 1_000


def test_any_single_typing_error_in_a_key_is_detected() -> None:
    key = ids.new_key()
    for place in range(len(key)):
        for other in "aZ0é ":
            if other != key[place]:
                assert not ids.is_key(key[:place] + other + key[place + 1 :])
        assert not ids.is_key(key[:place] + key[place + 1 :])
    assert not ids.is_key(key + "a")


@given(st.text(max_size=80))
def test_the_checks_accept_any_text(text: str) -> None:
    assert not ids.is_key(text)
    assert ids.is_id(text) == (0 < len(text) <= 64 and set(text) <= LETTERS_AND_DIGITS | set("_-"))


def test_the_hash_of_a_key_depends_on_the_pepper() -> None:
    key = ids.new_key()
    names = {ids.key_hash(key, pepper) for pepper in (b"a", b"b", b"")}
    assert len(names) == 3
    assert all(len(name) == 64 and key not in name for name in names)
    # Records of keys are stored under this hash: it must never change.
    assert ids.key_hash("pollux_live_x", b"a") == (
        "89aa17ec7a3c5f7eba6b0520ce930affaf34acd8b630c1357f82265464c96535"
    )
