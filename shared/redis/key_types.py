"""Which keys a call may touch, and the type that each should have.

Pure: `library` asks Redis. Where a key has another type, Redis refuses a function's command without
naming the key; these are the keys that it may have been.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from shared.redis import keys
from shared.redis.keys import Key
from shared.wire.submission import LANES

Expected = tuple[str, str, int]

# The arguments of functions that may hold each part of a key's name.
_ARGUMENTS_BY_PART: Final[dict[str, tuple[str, ...]]] = {
    "id": ("id", "generation", "session", "batch", "account"),
    "hash": ("hash", "idempotency"),
    "circuit": ("circuit",),
    "provider": ("provider",),
    "model": ("model",),
    "target": ("target",),
}


class CheckTypesAsk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Keys of one root, the type that each should have, and 1 if it is rebuilt when needed."""

    keys: tuple[Expected, ...]


def ask(expected: Iterable[Expected]) -> CheckTypesAsk:
    """Return the arguments of `check_types`."""
    return CheckTypesAsk(keys=tuple(expected))


def of_root(root: str) -> Iterator[Expected]:
    """Yield the keys without an account in their names, of a partition or of the system's root."""
    return _expected(root, {"lane": LANES})


def of_call(root: str, called: msgspec.Struct, blob: bytes = b"") -> Iterator[Expected]:
    """Yield those, and the keys of the account, session or provider that a call names.

    Some calls name them only in the record that they send as their blob.
    """
    names = _record_in(blob) | {each: getattr(called, each) for each in called.__struct_fields__}
    parts_by_name: dict[str, tuple[str, ...]] = {"lane": LANES}
    for part, fields in _ARGUMENTS_BY_PART.items():
        found = (names.get(field) for field in fields)
        parts_by_name[part] = tuple(dict.fromkeys(each for each in found if isinstance(each, str)))
    account = names.get("account")
    if isinstance(account, str):
        parts_by_name["account"] = (account,)
        parts_by_name["circuit"] += tuple(
            f"{circuit}@{account}" for circuit in parts_by_name["circuit"]
        )
    return _expected(root, parts_by_name)


def named_in(root: str, message: str) -> Iterator[Expected]:
    """Yield the keys that a function's error names, which its arguments may not name."""
    for word in message.split():
        key = keys.family_of(root, word) if word.startswith(root) else None
        if key is not None:
            yield word, key.type, int(key in keys.REBUILDABLE)


def _record_in(blob: bytes) -> dict[str, object]:
    try:
        record = msgspec.msgpack.decode(blob)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return record if isinstance(record, dict) else {}


def of_account(root: str, account: str) -> Iterator[Expected]:
    """Yield the keys that all of an account's generations share."""
    own = (key for key in keys.FAMILIES.values() if set(key.parts) <= {"account", "lane"})
    return _expected(root, {"account": (account,), "lane": LANES}, own)


def parked(root: str, parked_queues: Iterable[tuple[str, str]]) -> Iterator[Expected]:
    """Yield the queues of parked turns, each named by its lane and its resource."""
    for lane, resource in parked_queues:
        yield (
            keys.PARKED(root, lane, resource),
            keys.PARKED.type,
            int(keys.PARKED in keys.REBUILDABLE),
        )


def _expected(
    root: str, parts_by_name: dict[str, tuple[str, ...]], families: Iterable[Key] | None = None
) -> Iterator[Expected]:
    is_system = keys.is_system(root)
    for key in families or keys.FAMILIES.values():
        if key.is_system is is_system:
            for parts in itertools.product(*(parts_by_name.get(part, ()) for part in key.parts)):
                yield key(root, *parts), key.type, int(key in keys.REBUILDABLE)
