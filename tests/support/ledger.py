"""Does what is left in Redis add up? Asked after every test that used the server.

Owns the rules that hold at every moment: each key belongs to a family of keys.py and ends as its
family says, each queue holds only what is still under way, and the books balance. Refuses to repair
anything.
"""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from shared.lifecycle import ENDS
from shared.redis import keys
from shared.settings import RedisSettings
from tests.support.server import Look

_ENDS: Final = {stage.encode() for stage in ENDS}
_ARQ: Final = "arq:*"


class _Place(NamedTuple):
    """A key where it was found: its family, and what stands in the places of its pattern."""

    name: str
    root: str
    key: keys.Key
    parts: tuple[str, ...]


def faults(look: Look, settings: RedisSettings) -> list[str]:
    """Return a sentence for everything under the prefix that should not be as it is."""
    found: list[str] = []
    places = []
    for name in look.names(f"{settings.prefix}:*"):
        place = _place(name, settings)
        if place is None:
            found.append(f"{name}: belongs to no family of keys.py")
        else:
            places.append(place)
    for place in places:
        found += _ending_faults(look, place)
        found += _content_faults(look, place)
    return found + _arq_faults(look)


def sweep(look: Look, settings: RedisSettings) -> None:
    """Delete everything under the prefix, and what arq left."""
    for name in [*look.names(f"{settings.prefix}:*"), *look.names(_ARQ)]:
        look("UNLINK", name)


def _place(name: str, settings: RedisSettings) -> _Place | None:
    head, _, tail = name.partition("}:")
    root = f"{head}}}:"
    system = keys.system_root(settings)
    known = {system}
    known |= {keys.partition_root(settings, index) for index in range(settings.partitions)}
    key = keys.family_of(root, name)
    if root not in known or key is None:
        return None
    if (root == system) != (key in _SYSTEM):
        return None
    pattern = re.sub(r"<[a-z_]+>", "([^:]+)", key.pattern)
    parts = re.fullmatch(pattern, tail)
    return None if parts is None else _Place(name, root, key, parts.groups())


_SYSTEM: Final = {
    keys.API_KEY,
    keys.ACCOUNT,
    keys.KEY_IDS,
    keys.WORKERS,
    keys.SERVED,
    keys.LIBRARIES,
    keys.BELL,
    keys.CHORES,
    keys.CHORES_HEALTH,
    keys.CHORE_SLOT,
}


def _ending_faults(look: Look, place: _Place) -> list[str]:
    """A key goes as its family says; only what is under way is spared."""
    is_one = place.key.parts == ("account", "id")
    is_spared = is_one and _is_unfinished(look, place.root, *place.parts)
    if place.key.end == "ttl" and not is_spared and look("PTTL", place.name) < 0:
        return [f"{place.name}: never expires, though its family does"]
    if place.key in {keys.SUBMISSION, keys.TEXT} and not is_spared:
        return [f"{place.name}: stayed though its generation has ended"]
    return []


def _content_faults(look: Look, place: _Place) -> list[str]:
    """A queue holds only what is under way; books balance; a session's head is under way."""
    if place.key in {keys.LEASES, keys.DEADLINES, keys.DEFERRED}:
        pairs = [tuple(member.split(":", 1)) for member in look.members(place.name)]
        return _strangers(look, place, pairs)
    if place.key in {keys.UNFINISHED, keys.READY, keys.WAITING}:
        pairs = [(place.parts[0], member) for member in look.members(place.name)]
        return _strangers(look, place, pairs)
    if place.key is keys.LANE:
        return [
            f"{place.name}: {account} stands in the lane with nothing ready"
            for account in look.members(place.name)
            if not look("EXISTS", keys.READY(place.root, account, place.parts[0]))
        ]
    if place.key is keys.SESSION:
        head = look("HGET", place.name, "head")
        if head is not None:
            return _strangers(look, place, [(place.parts[0], head.decode())])
    if place.key is keys.BOOKS:
        return _books_faults(look, place)
    if place.key is keys.GENERATION and _is_unfinished(look, place.root, *place.parts):
        return _placing_faults(look, place)
    return []


def _placing_faults(look: Look, place: _Place) -> list[str]:
    """What is under way is in exactly one of four places, has a deadline, and is its account's."""
    account, id_ = place.parts
    member = f"{account}:{id_}"
    lane, session = (look("HGET", place.name, field).decode() for field in ("lane", "session"))
    places = {
        "waiting": look("ZSCORE", keys.WAITING(place.root, account, session), id_),
        "ready": look("ZSCORE", keys.READY(place.root, account, lane), id_),
        "leased": look("ZSCORE", keys.LEASES(place.root), member),
        "deferred": look("ZSCORE", keys.DEFERRED(place.root), member),
    }
    standing = [name for name, score in places.items() if score is not None]
    found = [] if len(standing) == 1 else [f"{place.name}: stands in {standing}, not in one place"]
    if look("ZSCORE", keys.DEADLINES(place.root), member) is None:
        found.append(f"{place.name}: has no deadline")
    if look("ZSCORE", keys.UNFINISHED(place.root, account, lane), id_) is None:
        found.append(f"{place.name}: is not among its account's unfinished")
    return found


def _strangers(look: Look, place: _Place, members: Iterable[tuple[str, ...]]) -> list[str]:
    return [
        f"{place.name}: holds {id_}, which is not under way"
        for account, id_ in members
        if not _is_unfinished(look, place.root, account, id_)
    ]


def _books_faults(look: Look, place: _Place) -> list[str]:
    """Granted = balance + held + settled; held is what the unfinished hold; running is leased."""
    account = place.parts[0]
    books = {name: int(value) for name, value in look.fields(place.name).items()}
    granted, balance, held, settled = (
        books.get(name, 0) for name in ("granted", "balance", "held", "settled")
    )
    found = []
    if granted != balance + held + settled or min(balance, held, settled) < 0:
        found.append(f"{place.name}: {books} does not balance")
    holds = 0
    for lane in ("interactive", "batch"):
        unfinished = look.members(keys.UNFINISHED(place.root, account, lane))
        holds += sum(
            int(look("HGET", keys.GENERATION(place.root, account, id_), "hold") or 0)
            for id_ in unfinished
        )
        leased = sum(
            look("ZSCORE", keys.LEASES(place.root), f"{account}:{id_}") is not None
            for id_ in unfinished
        )
        if books.get(f"running_{lane}", 0) != leased:
            found.append(f"{place.name}: {books} counts other than the {leased} leases of {lane}")
    if holds != held:
        found.append(f"{place.name}: {held} held, but the unfinished hold {holds}")
    return found


def _is_unfinished(look: Look, root: str, account: str, id_: str) -> bool:
    stage = look("HGET", keys.GENERATION(root, account, id_), "stage")
    return stage is not None and stage not in _ENDS


def _arq_faults(look: Look) -> list[str]:
    return [
        f"{name}: never expires"
        for name in look.names(_ARQ)
        if look("PTTL", name) == -1 and look("TYPE", name) != b"zset"
    ]
