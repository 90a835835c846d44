"""Does what is left in Redis add up? Asked after every test that used the server.

Owns the rules that hold at every moment: each key belongs to a family of keys.py and ends as its
family says, each queue holds only what is under way, what is under way stands in exactly one place,
and the books balance. Refuses to repair anything.
"""

import re
from collections.abc import Iterable, Set as AbstractSet
from typing import Final, NamedTuple

from shared.lifecycle import ENDS
from shared.redis import keys
from shared.redis.client import Reply
from shared.settings import RedisSettings
from shared.stores import ledger
from tests.support.server import Look

_ARQ: Final = "arq:*"
_LANES: Final = ("interactive", "batch")


class _Place(NamedTuple):
    """A key where it was found: its family, and what stands in the places of its pattern."""

    name: str
    root: str
    key: keys.Key
    parts: tuple[str, ...]


class _Snapshot(NamedTuple):
    """What is under a prefix: hashes, members of sorted sets, ledgers, and the ms left to live.

    `sizes` are those of the fields of hashes, in bytes.
    """

    hashes: dict[str, dict[str, str]]
    sizes: dict[str, dict[str, int]]
    sets: dict[str, set[str]]
    ledgers: dict[str, list[ledger.Entry]]
    left_ms: dict[str, int]

    def is_unfinished(self, root: str, account: str, id_: str) -> bool:
        """Tell whether a generation is there and has not ended."""
        stage = self.hashes.get(keys.GENERATION(root, account, id_), {}).get("stage")
        return stage is not None and stage not in ENDS

    def holds(self, name: str, member: str) -> bool:
        """Tell whether a sorted set has a member."""
        return member in self.sets.get(name, set())


def faults(
    look: Look, settings: RedisSettings, others: AbstractSet[str] = frozenset()
) -> list[str]:
    """Return a sentence for everything under the prefix that should not be as it is.

    `others` are the names of keys that only another version of Pollux knows.
    """
    snapshot = _read(look, settings)
    found: list[str] = []
    for name in snapshot.left_ms.keys() - others:
        place = _place(name, settings)
        if place is None:
            found.append(f"{name}: belongs to no family of keys.py")
        else:
            found += _ending_faults(snapshot, place)
            found += _content_faults(snapshot, place)
            found += _key_list_faults(snapshot, place)
    return found + _arq_faults(look)


def sweep(look: Look, settings: RedisSettings) -> None:
    """Delete everything under the prefix, and what arq left."""
    names = [*look.names(f"{settings.prefix}:*"), *look.names(_ARQ)]
    look.all([("UNLINK", name) for name in names])


def _read(look: Look, settings: RedisSettings) -> _Snapshot:
    names = look.names(f"{settings.prefix}:*")
    kinds = look.all([("TYPE", name) for name in names])
    reads = {b"hash": ("HGETALL",), b"zset": ("ZRANGE", "0", "-1")}
    kept = [name for name in names if "}:ledger:" in name]
    entries = look.all([("XRANGE", name, "-", "+") for name in kept])
    ledgers = {
        name: [ledger.decode(fields[b"e"]) for _, fields in found]
        for name, found in zip(kept, entries, strict=True)
    }
    chosen = [(name, kind) for name, kind in zip(names, kinds, strict=True) if kind in reads]
    values = look.all([(reads[kind][0], name, *reads[kind][1:]) for name, kind in chosen])
    left = look.all([("PTTL", name) for name in names])
    hashes, sizes, sets = {}, {}, {}
    for (name, kind), value in zip(chosen, values, strict=True):
        if kind == b"hash":
            hashes[name] = _texts(value)
            sizes[name] = {field.decode(): len(text) for field, text in value.items()}
        else:
            sets[name] = {member.decode() for member in value}
    # What expired meanwhile is not there any more.
    alive = {name: ms for name, ms in zip(names, left, strict=True) if ms != _GONE}
    return _Snapshot(hashes, sizes, sets, ledgers, alive)


_GONE: Final = -2
_NO_TTL: Final = -1


def _texts(value: dict[bytes, Reply]) -> dict[str, str]:
    return {name.decode(): field.decode(errors="replace") for name, field in value.items()}


def _place(name: str, settings: RedisSettings) -> _Place | None:
    head, _, tail = name.partition("}:")
    root = f"{head}}}:"
    system = keys.system_root(settings)
    known = {system}
    known |= {keys.partition_root(settings, index) for index in range(settings.partitions)}
    key = keys.family_of(root, name)
    if root not in known or key is None:
        return None
    if (root == system) is not key.is_system:
        return None
    pattern = re.sub(r"<[a-z_]+>", "([^:]+)", key.pattern)
    parts = re.fullmatch(pattern, tail)
    return None if parts is None else _Place(name, root, key, parts.groups())


def _ending_faults(snapshot: _Snapshot, place: _Place) -> list[str]:
    """A key goes as its family says; only what is under way is spared."""
    is_one = place.key.parts == ("account", "id")
    is_spared = is_one and snapshot.is_unfinished(place.root, *place.parts)
    if place.key.end == "ttl" and not is_spared and snapshot.left_ms[place.name] == _NO_TTL:
        return [f"{place.name}: never expires, though its family does"]
    if place.key in {keys.SUBMISSION, keys.TEXT} and not is_spared:
        return [f"{place.name}: stayed though its generation has ended"]
    return []


def _content_faults(snapshot: _Snapshot, place: _Place) -> list[str]:
    """A queue holds only what is under way; books balance; a session's head is under way."""
    members = snapshot.sets.get(place.name, set())
    if place.key in {keys.LEASES, keys.DEADLINES, keys.DEFERRED, keys.SUSPECTS}:
        return _strangers(snapshot, place, (tuple(member.split(":", 1)) for member in members))
    if place.key in {keys.DEAD, keys.LETTER}:
        check = _dead_faults if place.key is keys.DEAD else _letter_faults
        return check(snapshot, place)
    if place.key in {keys.UNFINISHED, keys.READY, keys.WAITING}:
        return _strangers(snapshot, place, ((place.parts[0], member) for member in members))
    if place.key is keys.LANE:
        return [
            f"{place.name}: {account} stands in the lane with nothing ready"
            for account in members
            if keys.READY(place.root, account, place.parts[0]) not in snapshot.sets
        ]
    if place.key is keys.SESSION and "head" in snapshot.hashes[place.name]:
        head = snapshot.hashes[place.name]["head"]
        return _strangers(snapshot, place, [(place.parts[0], head)])
    if place.key is keys.BOOKS:
        return _books_faults(snapshot, place)
    if place.key is keys.GENERATION and snapshot.is_unfinished(place.root, *place.parts):
        return _placing_faults(snapshot, place)
    return []


def _key_list_faults(snapshot: _Snapshot, place: _Place) -> list[str]:
    """Return what is wrong with an account's list of API keys: each of them is a key."""
    if place.key not in {keys.ACCOUNT_KEYS, keys.KEY_ENDS}:
        return []
    listed, known = snapshot.sets[place.name], snapshot.hashes[keys.KEY_IDS(place.root)]
    return [f"{place.name}: lists {id_}, which is no key" for id_ in listed - known.keys()]


def _placing_faults(snapshot: _Snapshot, place: _Place) -> list[str]:
    """What is under way is in exactly one of four places, has a deadline, and is its account's."""
    account, id_ = place.parts
    member = f"{account}:{id_}"
    record = snapshot.hashes[place.name]
    places = {
        "waiting": (keys.WAITING(place.root, account, record["session"]), id_),
        "ready": (keys.READY(place.root, account, record["lane"]), id_),
        "leased": (keys.LEASES(place.root), member),
        "deferred": (keys.DEFERRED(place.root), member),
    }
    standing = [word for word, where in places.items() if snapshot.holds(*where)]
    found = [] if len(standing) == 1 else [f"{place.name}: stands in {standing}, not in one place"]
    if not snapshot.holds(keys.DEADLINES(place.root), member):
        found.append(f"{place.name}: has no deadline")
    if not snapshot.holds(keys.UNFINISHED(place.root, account, record["lane"]), id_):
        found.append(f"{place.name}: is not among its account's unfinished")
    is_in_lane = snapshot.holds(keys.LANE(place.root, record["lane"]), account)
    if "ready" in standing and is_in_lane == _is_at_its_most(snapshot, place):
        where = "in the lane" if is_in_lane else "not in the lane"
        found.append(f"{place.name}: is ready, but its account is {where}")
    return found


def _dead_faults(snapshot: _Snapshot, place: _Place) -> list[str]:
    """Return what is wrong with the list: what stands there has a letter that nobody retried."""
    found = []
    for member in snapshot.sets[place.name]:
        letter = snapshot.hashes.get(keys.LETTER(place.root, *member.split(":", 1)))
        if letter is None or "retried_as" in letter:
            found.append(f"{place.name}: lists {member}, which is gone or was retried")
    return found


def _letter_faults(snapshot: _Snapshot, place: _Place) -> list[str]:
    """Return what is wrong with a dead letter: it is of something that ended, in a session."""
    account, id_ = place.parts
    letter = snapshot.hashes[place.name]
    found = []
    if snapshot.is_unfinished(place.root, account, id_):
        found.append(f"{place.name}: is dead, but under way")
    if keys.SESSION(place.root, account, letter["session"]) not in snapshot.hashes:
        found.append(f"{place.name}: outlived its session")
    is_listed = snapshot.holds(keys.DEAD(place.root), f"{account}:{id_}")
    if is_listed == ("retried_as" in letter):
        found.append(f"{place.name}: is {'' if is_listed else 'not '}in the list")
    return found


def _is_at_its_most(snapshot: _Snapshot, place: _Place) -> bool:
    """Tell whether as many of the account run as it may have: it then stays outside the lanes."""
    books = snapshot.hashes[keys.BOOKS(place.root, place.parts[0])]
    running = sum(int(books.get(f"running_{lane}", 0)) for lane in _LANES)
    return "running_most" in books and running >= int(books["running_most"])


def _strangers(snapshot: _Snapshot, place: _Place, members: Iterable[tuple[str, ...]]) -> list[str]:
    return [
        f"{place.name}: holds {id_}, which is not under way"
        for account, id_ in members
        if not snapshot.is_unfinished(place.root, account, id_)
    ]


def _books_faults(snapshot: _Snapshot, place: _Place) -> list[str]:
    """Granted = balance + held + settled; held is what the unfinished hold; running is leased."""
    account = place.parts[0]
    books = {name: int(value) for name, value in snapshot.hashes[place.name].items()}
    granted, balance, held, settled = (
        books.get(name, 0) for name in ("granted", "balance", "held", "settled")
    )
    found = []
    if granted != balance + held + settled or min(balance, held, settled) < 0:
        found.append(f"{place.name}: {books} does not balance")
    holds = 0
    for lane in _LANES:
        unfinished = snapshot.sets.get(keys.UNFINISHED(place.root, account, lane), set())
        records = (
            snapshot.hashes.get(keys.GENERATION(place.root, account, id_), {}) for id_ in unfinished
        )
        holds += sum(int(record.get("hold", 0)) for record in records)
        leased = sum(
            snapshot.holds(keys.LEASES(place.root), f"{account}:{id_}") for id_ in unfinished
        )
        if books.get(f"running_{lane}", 0) != leased:
            found.append(f"{place.name}: {books} counts other than the {leased} leases of {lane}")
    lines = snapshot.ledgers.get(keys.LEDGER(place.root, account), [])
    for kind, amount in (("grant", granted), ("charge", settled)):
        written = sum(line.amount for line in lines if line.kind == kind)
        if written != amount:
            found.append(f"{place.name}: {amount} of {kind}, but the ledger says {written}")
    found += _stored_faults(snapshot, place)
    if holds != held:
        found.append(f"{place.name}: {held} held, but the unfinished hold {holds}")
    return found


def _stored_faults(snapshot: _Snapshot, place: _Place) -> list[str]:
    """Of each side, the books' sum is that of its sessions, and a session's that of its records.

    But for accounts that wait to be counted again.
    """
    account, books = place.parts[0], snapshot.hashes[place.name]
    if snapshot.holds(keys.RECOUNT(place.root), account):
        return []
    sums, found = {"0": 0, "1": 0}, []
    for name in (name for name in snapshot.hashes if name.startswith(f"{place.root}session:")):
        _, owner, session = name.removeprefix(place.root).split(":")
        if owner != account:
            continue
        record, chunks = snapshot.hashes[name], keys.TURNS(place.root, account, session, "")
        turns = (sizes for key, sizes in snapshot.sizes.items() if key.startswith(chunks))
        stored = sum(sum(sizes.values()) for sizes in turns)
        stored += sum(snapshot.sizes[name].get(field, 0) for field in _SESSION_TEXTS)
        sums[record.get("side", "0")] += int(record.get("bytes", 0))
        if stored != int(record.get("bytes", 0)):
            found.append(f"{name}: holds {stored} bytes, but counts {record.get('bytes')}")
    for side, counted in sums.items():
        if int(books.get(f"stored_{side}", 0)) != counted:
            found.append(f"{place.name}: {books} counts other than the {counted} bytes of its side")
    return found


_SESSION_TEXTS: Final = ("name", "system", "companion", "metadata")


def _arq_faults(look: Look) -> list[str]:
    return [
        f"{name}: never expires"
        for name in look.names(_ARQ)
        if look("PTTL", name) == _NO_TTL and look("TYPE", name) != b"zset"
    ]
