"""Checks that everything left in Redis adds up; runs after every test that used a server.

Owns the rules that hold at every moment: each key belongs to a family of keys.py and expires as its
family says, each queue holds only unfinished generations, an unfinished generation is in exactly
one place, and the credits balance. Repairs nothing.
"""

import re
from collections import Counter
from collections.abc import Iterable, Set as AbstractSet
from functools import cache
from typing import Final, NamedTuple

from shared.lifecycle import ENDS
from shared.redis import keys
from shared.redis.client import Reply
from shared.settings import RedisSettings
from shared.stores import ledger
from shared.wire.submission import LANES
from tests.support import batch_invariants
from tests.support.batch_invariants import StoredKeys, is_unpacked_item, unbooked
from tests.support.redis_server import RawClient

_ARQ: Final = "arq:*"


class _FoundKey(NamedTuple):
    """A key that was found: its family, and the values of the placeholders of its pattern."""

    name: str
    root: str
    key: keys.Key
    parts: tuple[str, ...]


class _Snapshot(NamedTuple):
    """What is under a prefix: hashes, members of sets, ledgers, and times to live in ms.

    `sizes` are the sizes of the fields of hashes, in bytes; `turn_bytes`, those of messages;
    `lengths`, those of texts.
    """

    hashes: dict[str, dict[str, str]]
    sizes: dict[str, dict[str, int]]
    turn_bytes: Counter[str]
    sets: dict[str, set[str]]
    ledgers: dict[str, list[ledger.Entry]]
    ttl_ms: dict[str, int]
    lengths: dict[str, int]

    @property
    def stored(self) -> StoredKeys:
        """What the rules of batches look at."""
        return StoredKeys(self.hashes, self.sets, self.lengths)

    def is_unfinished(self, root: str, account: str, id_: str) -> bool:
        """Return whether a generation exists and has not ended."""
        stage = self.hashes.get(keys.GENERATION(root, account, id_), {}).get("stage")
        return stage is not None and stage not in ENDS

    def holds(self, name: str, member: str) -> bool:
        """Return whether a sorted set has a member."""
        return member in self.sets.get(name, set())


def faults(
    raw_client: RawClient, settings: RedisSettings, others: AbstractSet[str] = frozenset()
) -> list[str]:
    """Return a sentence for every rule that does not hold under the prefix.

    `others` are the names of keys that only another version of Pollux knows.
    """
    snapshot = _read(raw_client, settings)
    found: list[str] = []
    for name in snapshot.ttl_ms.keys() - others:
        found_key = _find_key(name, settings)
        if found_key is None:
            found.append(f"{name}: belongs to no family of keys.py")
        else:
            found += _ending_faults(snapshot, found_key)
            found += _content_faults(snapshot, found_key)
            found += _key_list_faults(snapshot, found_key)
            found += _batch_faults(snapshot, found_key)
    return found + _arq_faults(raw_client)


def sweep(raw_client: RawClient, settings: RedisSettings) -> None:
    """Delete everything under the prefix, and what arq left."""
    names = [*raw_client.names(f"{settings.prefix}:*"), *raw_client.names(_ARQ)]
    raw_client.all([("UNLINK", name) for name in names])


def _read(raw_client: RawClient, settings: RedisSettings) -> _Snapshot:
    names = raw_client.names(f"{settings.prefix}:*")
    kinds = raw_client.all([("TYPE", name) for name in names])
    reads = {b"hash": ("HGETALL",), b"zset": ("ZRANGE", "0", "-1"), b"set": ("SMEMBERS",)}
    kept = [name for name in names if "}:ledger:" in name]
    chosen = [(name, kind) for name, kind in zip(names, kinds, strict=True) if kind in reads]
    texts = [name for name, kind in zip(names, kinds, strict=True) if kind == b"string"]
    replies = iter(
        raw_client.all(
            [("XRANGE", name, "-", "+") for name in kept]
            + [(reads[kind][0], name, *reads[kind][1:]) for name, kind in chosen]
            + [("STRLEN", name) for name in texts]
            + [("PTTL", name) for name in names]
        )
    )
    ledgers = {name: [ledger.decode(fields[b"e"]) for _, fields in next(replies)] for name in kept}
    hashes, sizes, sets = {}, {}, {}
    for name, kind in chosen:
        value = next(replies)
        if kind == b"hash":
            hashes[name] = _texts(value)
            sizes[name] = {field.decode(): len(text) for field, text in value.items()}
        else:
            sets[name] = {member.decode() for member in value}
    lengths = {name: next(replies) for name in texts}
    # A key that expired during the reads is left out.
    alive = {name: ms for name, ms in zip(names, replies, strict=True) if ms != _GONE}
    return _Snapshot(hashes, sizes, _turn_bytes(sizes), sets, ledgers, alive, lengths)


def _turn_bytes(sizes: dict[str, dict[str, int]]) -> Counter[str]:
    """Return the bytes of a session's messages by the start of their keys' names."""
    counted: Counter[str] = Counter()
    for name, fields in sizes.items():
        if "}:turns:" in name:
            counted[name[: name.rindex(":") + 1]] += sum(fields.values())
    return counted


# Between two commands of one function, and two reads of a time to live.
_SAME_MOMENT_MS: Final = 2_000
_GONE: Final = -2
_NO_TTL: Final = -1


def _texts(value: dict[bytes, Reply]) -> dict[str, str]:
    return {name.decode(): field.decode(errors="replace") for name, field in value.items()}


def _find_key(name: str, settings: RedisSettings) -> _FoundKey | None:
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
    parts = _pattern(key).fullmatch(tail)
    return None if parts is None else _FoundKey(name, root, key, parts.groups())


@cache
def _pattern(key: keys.Key) -> re.Pattern[str]:
    return re.compile(re.sub(r"<[a-z_]+>", "([^:]+)", key.pattern))


def _ending_faults(snapshot: _Snapshot, found_key: _FoundKey) -> list[str]:
    """A key expires as its family says, except while its generation is unfinished."""
    is_one = found_key.key.parts == ("account", "id")
    is_spared = is_one and snapshot.is_unfinished(found_key.root, *found_key.parts)
    is_spared = is_spared or _is_key_of_batch(snapshot, found_key)
    if found_key.key is keys.GENERATION:
        is_spared = is_spared or is_unpacked_item(snapshot.stored, found_key.root, *found_key.parts)
    if found_key.key.end == "ttl" and not is_spared and snapshot.ttl_ms[found_key.name] == _NO_TTL:
        return [f"{found_key.name}: never expires, though its family does"]
    if found_key.key is keys.TURNS:
        return _lone_turn_faults(snapshot, found_key)
    if found_key.key in {keys.SUBMISSION, keys.TEXT, keys.ROUNDS} and not is_spared:
        return [f"{found_key.name}: stayed though its generation has ended"]
    return []


def _is_key_of_batch(snapshot: _Snapshot, found_key: _FoundKey) -> bool:
    """Return whether it is the Idempotency-Key of a batch, which lives as long as the batch."""
    if found_key.key is not keys.IDEMPOTENCY:
        return False
    batch = snapshot.hashes[found_key.name].get("batch", "")
    return keys.BATCH(found_key.root, found_key.parts[0], batch) in snapshot.hashes


def _batch_faults(snapshot: _Snapshot, found_key: _FoundKey) -> list[str]:
    """A batch is listed and will be looked at; one that has not ended is among the open ones."""
    if found_key.key is keys.ACCOUNT_TOTALS:
        return _batch_sum_faults(snapshot, found_key)
    if found_key.key is not keys.BATCH:
        return []
    account, id_ = found_key.parts
    state = snapshot.hashes[found_key.name]["state"]
    places = [keys.BATCHES(found_key.root, account)]
    if state in {"running", "paused"}:
        places.append(keys.OPEN_BATCHES(found_key.root, account))
    found = [
        f"{found_key.name}: is not in {place}" for place in places if not snapshot.holds(place, id_)
    ]
    if not snapshot.holds(keys.BATCH_WORK(found_key.root), f"{account}:{id_}"):
        found.append(f"{found_key.name}: nobody will look at it")
    return found + list(batch_invariants.faults(snapshot.stored, found_key.root, account, id_))


def _batch_sum_faults(snapshot: _Snapshot, found_key: _FoundKey) -> list[str]:
    """The account's totals count the bytes of its batches, and the uploads under way."""
    start = keys.BATCH(found_key.root, found_key.parts[0], "")
    batches = [record for name, record in snapshot.hashes.items() if name.startswith(start)]
    totals = snapshot.hashes[found_key.name]
    stored = sum(int(batch.get("bytes", 0)) for batch in batches)
    uploads = sum(batch["state"] == "validating" for batch in batches)
    expected = {"stored_batches": stored, "batch_uploads": uploads}
    return [
        f"{found_key.name}: {name} is {totals.get(name, 0)}, not {count}"
        for name, count in expected.items()
        if int(totals.get(name, 0)) != count
    ]


def _lone_turn_faults(snapshot: _Snapshot, found_key: _FoundKey) -> list[str]:
    """Messages of no session expire with their generation; those of a deleted one are noted."""
    account, owner, _ = found_key.parts
    if keys.SESSION(found_key.root, account, owner) in snapshot.hashes:
        return []
    noted = snapshot.hashes.get(keys.TURNS_TO_DELETE(found_key.root), {})
    if f"{account}:{owner}" in noted:
        return []
    ttl_ms = snapshot.ttl_ms[found_key.name]
    if is_unpacked_item(snapshot.stored, found_key.root, account, owner):
        return [] if ttl_ms == _NO_TTL else [f"{found_key.name}: expires before it is packed"]
    if ttl_ms == _NO_TTL:
        return [f"{found_key.name}: belongs to no session, and never expires"]
    record = keys.GENERATION(found_key.root, account, owner)
    if not snapshot.is_unfinished(found_key.root, account, owner):
        left_ms = snapshot.ttl_ms.get(record, 0)
        if ttl_ms > left_ms + _SAME_MOMENT_MS:
            return [f"{found_key.name}: stays {ttl_ms} ms, its generation's record {left_ms} ms"]
    return []


def _content_faults(snapshot: _Snapshot, found_key: _FoundKey) -> list[str]:
    """Queues hold only unfinished generations, and so does a session's head; credits balance."""
    members = snapshot.sets.get(found_key.name, set())
    if found_key.key in {keys.LEASES, keys.DEADLINES, keys.DEFERRED, keys.SUSPECTS}:
        return _entries_not_under_way(
            snapshot, found_key, (tuple(member.split(":", 1)) for member in members)
        )
    if found_key.key in {keys.DEAD_LETTERS, keys.DEAD_LETTER}:
        check = _dead_faults if found_key.key is keys.DEAD_LETTERS else _letter_faults
        return check(snapshot, found_key)
    if found_key.key in {keys.UNFINISHED, keys.READY, keys.WAITING}:
        return _entries_not_under_way(
            snapshot, found_key, ((found_key.parts[0], member) for member in members)
        )
    if found_key.key is keys.LANE:
        return [
            f"{found_key.name}: {account} stands in the lane with nothing ready"
            for account in members
            if keys.READY(found_key.root, account, found_key.parts[0]) not in snapshot.sets
        ]
    if found_key.key is keys.SESSION and "head" in snapshot.hashes[found_key.name]:
        head = snapshot.hashes[found_key.name]["head"]
        return _entries_not_under_way(snapshot, found_key, [(found_key.parts[0], head)])
    if found_key.key is keys.ACCOUNT_TOTALS:
        return _books_faults(snapshot, found_key)
    if found_key.key is keys.GENERATION and snapshot.is_unfinished(
        found_key.root, *found_key.parts
    ):
        return _position_faults(snapshot, found_key)
    return []


def _key_list_faults(snapshot: _Snapshot, found_key: _FoundKey) -> list[str]:
    """Each entry of an account's list of API keys must be a key."""
    if found_key.key not in {keys.ACCOUNT_KEYS, keys.KEY_EXPIRIES}:
        return []
    listed, known = snapshot.sets[found_key.name], snapshot.hashes[keys.KEY_IDS(found_key.root)]
    return [f"{found_key.name}: lists {id_}, which is no key" for id_ in listed - known.keys()]


def _position_faults(snapshot: _Snapshot, found_key: _FoundKey) -> list[str]:
    """An unfinished generation is in one of four places, with a deadline, in its account's list."""
    account, id_ = found_key.parts
    member = f"{account}:{id_}"
    record = snapshot.hashes[found_key.name]
    places = {
        "waiting": (keys.WAITING(found_key.root, account, record["session"]), id_),
        "ready": (keys.READY(found_key.root, account, record["lane"]), id_),
        "leased": (keys.LEASES(found_key.root), member),
        "deferred": (keys.DEFERRED(found_key.root), member),
    }
    positions = [word for word, where in places.items() if snapshot.holds(*where)]
    found = (
        []
        if len(positions) == 1
        else [f"{found_key.name}: stands in {positions}, not in one place"]
    )
    if not snapshot.holds(keys.DEADLINES(found_key.root), member):
        found.append(f"{found_key.name}: has no deadline")
    if not snapshot.holds(keys.UNFINISHED(found_key.root, account, record["lane"]), id_):
        found.append(f"{found_key.name}: is not among its account's unfinished")
    is_in_lane = snapshot.holds(keys.LANE(found_key.root, record["lane"]), account)
    if "ready" in positions and is_in_lane == _is_at_running_max(snapshot, found_key):
        where = "in the lane" if is_in_lane else "not in the lane"
        found.append(f"{found_key.name}: is ready, but its account is {where}")
    return found


def _dead_faults(snapshot: _Snapshot, found_key: _FoundKey) -> list[str]:
    """Each entry of the list must have a dead letter that was not retried."""
    found = []
    for member in snapshot.sets[found_key.name]:
        letter = snapshot.hashes.get(keys.DEAD_LETTER(found_key.root, *member.split(":", 1)))
        if letter is None or "retried_as" in letter:
            found.append(f"{found_key.name}: lists {member}, which is gone or was retried")
    return found


def _letter_faults(snapshot: _Snapshot, found_key: _FoundKey) -> list[str]:
    """A dead letter must be of an ended generation without a session, or of one that exists."""
    account, id_ = found_key.parts
    letter = snapshot.hashes[found_key.name]
    found = []
    if snapshot.is_unfinished(found_key.root, account, id_):
        found.append(f"{found_key.name}: is dead, but under way")
    session = keys.SESSION(found_key.root, account, letter["session"])
    if letter["session"] != id_ and session not in snapshot.hashes:
        found.append(f"{found_key.name}: outlived its session")
    is_listed = snapshot.holds(keys.DEAD_LETTERS(found_key.root), f"{account}:{id_}")
    if is_listed == ("retried_as" in letter):
        found.append(f"{found_key.name}: is {'' if is_listed else 'not '}in the list")
    return found


def _is_at_running_max(snapshot: _Snapshot, found_key: _FoundKey) -> bool:
    """Return whether the account runs as many as it may: it is then in no lane."""
    credit_totals = snapshot.hashes[keys.ACCOUNT_TOTALS(found_key.root, found_key.parts[0])]
    running = sum(int(credit_totals.get(f"running_{lane}", 0)) for lane in LANES)
    return "running_most" in credit_totals and running >= int(credit_totals["running_most"])


def _entries_not_under_way(
    snapshot: _Snapshot, found_key: _FoundKey, members: Iterable[tuple[str, ...]]
) -> list[str]:
    return [
        f"{found_key.name}: holds {id_}, which is not under way"
        for account, id_ in members
        if not snapshot.is_unfinished(found_key.root, account, id_)
    ]


def _books_faults(snapshot: _Snapshot, found_key: _FoundKey) -> list[str]:
    """Granted = balance + held + settled; held is what the unfinished hold; running is leased."""
    account = found_key.parts[0]
    credit_totals = {name: int(value) for name, value in snapshot.hashes[found_key.name].items()}
    granted, balance, held, settled = (
        credit_totals.get(name, 0) for name in ("granted", "balance", "held", "settled")
    )
    found = []
    if granted != balance + held + settled or min(balance, held, settled) < 0:
        found.append(f"{found_key.name}: {credit_totals} does not balance")
    holds = 0
    for lane in LANES:
        unfinished = snapshot.sets.get(keys.UNFINISHED(found_key.root, account, lane), set())
        records = (
            snapshot.hashes.get(keys.GENERATION(found_key.root, account, id_), {})
            for id_ in unfinished
        )
        holds += sum(int(record.get("hold", 0)) for record in records)
        leased = sum(
            snapshot.holds(keys.LEASES(found_key.root), f"{account}:{id_}") for id_ in unfinished
        )
        if credit_totals.get(f"running_{lane}", 0) != leased:
            found.append(
                f"{found_key.name}: {credit_totals} counts other than the {leased} leases of {lane}"
            )
    lines = snapshot.ledgers.get(keys.LEDGER(found_key.root, account), [])
    charged = settled - unbooked(snapshot.stored, found_key.root, account)
    for kind, amount in (("grant", granted), ("charge", charged)):
        written = sum(line.amount for line in lines if line.kind == kind)
        if written != amount:
            found.append(f"{found_key.name}: {amount} of {kind}, but the ledger says {written}")
    found += _stored_faults(snapshot, found_key)
    if holds != held:
        found.append(f"{found_key.name}: {held} held, but the unfinished hold {holds}")
    return found


def _stored_faults(snapshot: _Snapshot, found_key: _FoundKey) -> list[str]:
    """On each side, the account's bytes are the sum of its sessions', and those of their records.

    Accounts that wait for a recount are left out.
    """
    account, credit_totals = found_key.parts[0], snapshot.hashes[found_key.name]
    if snapshot.holds(keys.RECOUNT(found_key.root), account):
        return []
    sums, found = {"0": 0, "1": 0}, []
    for name in (name for name in snapshot.hashes if name.startswith(f"{found_key.root}session:")):
        _, owner, session = name.removeprefix(found_key.root).split(":")
        if owner != account:
            continue
        record, chunks = snapshot.hashes[name], keys.TURNS(found_key.root, account, session, "")
        stored = snapshot.turn_bytes[chunks]
        stored += sum(snapshot.sizes[name].get(field, 0) for field in _SESSION_TEXTS)
        sums[record.get("side", "0")] += int(record.get("bytes", 0))
        if stored != int(record.get("bytes", 0)):
            found.append(f"{name}: holds {stored} bytes, but counts {record.get('bytes')}")
    for side, counted in sums.items():
        if int(credit_totals.get(f"stored_{side}", 0)) != counted:
            found.append(
                f"{found_key.name}: {credit_totals} counts other than the {counted} bytes "
                "of its side"
            )
    return found


_SESSION_TEXTS: Final = ("name", "system", "companion", "metadata")


def _arq_faults(raw_client: RawClient) -> list[str]:
    return [
        f"{name}: never expires"
        for name in raw_client.names(_ARQ)
        if raw_client("PTTL", name) == _NO_TTL and raw_client("TYPE", name) != b"zset"
    ]
