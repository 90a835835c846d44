"""Finds keys that something other than Pollux has overwritten, and rebuilds the queues.

For an operator's command. An overwritten key is renamed, never deleted. A partition's queues hold
nothing that the records of its unfinished generations do not hold, so they are rebuilt from these,
whichever of them is lost; accounts' lists of API keys are rebuilt from the keys' records. Keys with
money or messages are only reported, since nothing else has their content.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Final, NamedTuple

from shared.clock import Clock
from shared.errors import WrongKey, WrongTypeError
from shared.lifecycle import ENDS
from shared.redis import functions, key_types, keys
from shared.redis.client import Connection
from shared.redis.functions import RestoreAsk
from shared.redis.keys import Key
from shared.settings import Settings
from shared.stores import fleet
from shared.wire.account import Account

_NAMES_PER_CALL: Final = 200
_BATCH_FIELDS: Final = ("state", "created", "upload_ends", "delete_at")
# Queues, and lists of pending chores that can be done without.
_REBUILDABLE_QUEUES: Final[frozenset[Key]] = frozenset({
    keys.LANE, keys.CLOCKS, keys.LEASES, keys.DEADLINES, keys.DEFERRED, keys.SUSPECTS,
    keys.READY, keys.UNFINISHED, keys.DAMAGED, keys.RECOUNT, keys.FILES_TO_DELETE,
    keys.EXPIRING_FILES, keys.TURNS_TO_DELETE, keys.DEAD_LETTERS,
    keys.UNREAD_LOGS, keys.DUE_TARGETS, keys.UNDELIVERED, keys.DISABLED_WEBHOOKS,
    keys.BATCHES, keys.OPEN_BATCHES, keys.BATCH_WORK, keys.BATCH_CHUNKS_TO_PACK,
})  # fmt: skip
_KEY_LISTS: Final[frozenset[Key]] = frozenset({
    keys.ACCOUNT_KEYS, keys.KEY_EXPIRIES, keys.LISTED_KEYS_COUNT,
})  # fmt: skip


class RepairReport(NamedTuple):
    """What a repair did: keys set aside (by new name), keys left, missing entries restored."""

    set_aside: dict[str, WrongKey]
    left: list[WrongKey]
    restored: int


class KeyRepair:
    """The keys of a whole deployment, as an operator's command checks them."""

    def __init__(
        self, redis: Connection, settings: Settings, accounts: Iterable[Account], clock: Clock
    ) -> None:
        self._redis = redis
        self._settings = settings
        self._accounts = tuple(accounts)
        self._clock = clock

    async def find_wrong_keys(self) -> dict[str, list[WrongKey]]:
        """Return the keys of a wrong type by root; changes nothing."""
        found = {root: await self._check_root(root, may_remove=False) for root in self._roots()}
        async for root, letter in self._letters():
            if isinstance(letter, WrongKey):
                found[root].append(letter)
        return {root: wrong for root, wrong in found.items() if wrong}

    async def count_workers_in_the_way(self) -> int:
        """Return how many workers are alive if a partition's `leases` has a wrong type, else 0.

        Where the key with the workers' report times has a wrong type, too, return 1.
        """
        leases = key_types.ask(
            (keys.LEASES(root), keys.LEASES.type, 0) for root in self._partitions()
        )
        wrong = [
            key
            for root in self._partitions()
            for key in await functions.check_types(self._redis, root, leases)
        ]
        if not wrong:
            return 0
        root = keys.system_root(self._settings.redis)
        report_times = key_types.ask([(keys.REPORT_TIMES(root), keys.REPORT_TIMES.type, 0)])
        if await functions.check_types(self._redis, root, report_times):
            return 1
        return (await fleet.load(self._redis, self._settings.redis)).workers

    def _roots(self) -> list[str]:
        return [keys.system_root(self._settings.redis), *self._partitions()]

    def _partitions(self) -> list[str]:
        redis = self._settings.redis
        return [keys.partition_root(redis, number) for number in range(redis.partitions)]

    def _names(self, root: str) -> list[str]:
        """Return the accounts that have keys of their own below a root."""
        redis = self._settings.redis
        return [
            account.id
            for account in self._accounts
            if keys.is_system(root) or keys.partition_root(redis, account.partition) == root
        ]

    async def _check_root(self, root: str, *, may_remove: bool) -> list[WrongKey]:
        found: dict[str, WrongKey] = {}
        for expected in await self._expected(root):
            ask = key_types.ask(
                (name, type_, again * may_remove) for name, type_, again in expected
            )
            for key in await functions.check_types(self._redis, root, ask):
                found[key.name] = key
        return list(found.values())

    async def _expected(self, root: str) -> list[Iterable[key_types.Expected]]:
        of_accounts = (key_types.of_account(root, name) for name in self._names(root))
        parked = key_types.parked(root, await self._parked_queues(root))
        return [key_types.of_root(root), parked, *of_accounts]

    async def _parked_queues(self, root: str) -> list[tuple[str, str]]:
        try:
            listed = await self._redis.call("SMEMBERS", keys.PARKED_QUEUES(root))
        except WrongTypeError:
            return []
        names = (name.decode().partition(":") for name in listed)
        return [(lane, resource) for lane, _, resource in names]

    async def repair(self, note: Callable[[str, WrongKey], None] | None = None) -> RepairReport:
        """Set aside what replaced a queue, and restore what is missing from the queues.

        The restoring is done in any case: an earlier call may have been interrupted before it.
        `note` is called for each key as it is set aside.
        """
        repaired = RepairReport({}, [], 0)
        for root in self._roots():
            for key in await self._check_root(root, may_remove=True):
                if _is_rebuildable_queue(root, key):
                    aside = await self._rename_aside(root, key)
                    repaired.set_aside[aside] = key
                    if note is not None:
                        note(aside, key)
                elif not key.is_removed:
                    repaired.left.append(key)
        # All API keys now count as unlisted, so the next listing adopts them.
        system = keys.system_root(self._settings.redis)
        await self._redis.call("UNLINK", keys.LISTED_KEYS_COUNT(system))
        restored = await self._restore()
        await self._restore_deliveries()
        repaired.left.extend(await self._list_letters())
        repaired.left.extend(await self._list_batches())
        return repaired._replace(restored=restored)

    async def _rename_aside(self, root: str, key: WrongKey) -> str:
        place = key.name.removeprefix(root).replace(":", "-")
        aside = keys.QUARANTINED(root, self._clock.now_ms(), place)
        await self._redis.call("RENAME", key.name, aside)
        return aside

    async def _restore(self) -> int:
        count, lease_ms = 0, int(self._settings.worker.lease_seconds * 1000)
        async for root, names in self._unfinished():
            for first in range(0, len(names), _NAMES_PER_CALL):
                ask = RestoreAsk(
                    names=tuple(names[first : first + _NAMES_PER_CALL]), lease_ms=lease_ms
                )
                count += await functions.restore(self._redis, root, ask)
        return count

    async def _restore_deliveries(self) -> None:
        """List again the hosts to which something is to be sent, and the logs with new events.

        What is listed without need leaves the list when a worker looks at it.
        """
        for family in (keys.DELIVERIES_DUE, keys.DELIVERIES_SENT):
            async for names in self._scan(family):
                for root, name in names:
                    target = _named_in(family, root, name)
                    await self._redis.call("ZADD", keys.DUE_TARGETS(root), "NX", 0, target)
        for root in self._partitions():
            for account in self._names(root):
                if await self._has_unread_events(root, account):
                    await self._redis.call("ZADD", keys.UNREAD_LOGS(root), "NX", 0, account)

    async def _has_unread_events(self, root: str, account: str) -> bool:
        try:
            return bool(await self._redis.call("HEXISTS", keys.WEBHOOK(root, account), "cursor"))
        except WrongTypeError:
            # It is reported among the keys that are left.
            return False

    async def _unfinished(self) -> AsyncIterator[tuple[str, list[tuple[str, str]]]]:
        """Yield unfinished generations in groups of one root, found by their records.

        No queue is read, since any of them may be lost.
        """
        async for names in self._scan(keys.GENERATION):
            stages = await asyncio.gather(*(self._stage(name) for _, name in names))
            found: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
            for (root, name), stage in zip(names, stages, strict=True):
                if stage is not None and stage not in ENDS:
                    account, _, id_ = _named_in(keys.GENERATION, root, name).partition(":")
                    found[root].append((account, id_))
            for each in found.items():
                yield each

    async def _stage(self, name: str) -> str | None:
        try:
            stage: bytes | None = await self._redis.call("HGET", name, "stage")
        except WrongTypeError:
            # The next reap sets aside what is in a queue and has no record.
            return None
        return None if stage is None else stage.decode()

    async def _list_letters(self) -> list[WrongKey]:
        """Add the stored dead letters to their lists; return those of a wrong type."""
        wrong: list[WrongKey] = []
        async for root, letter in self._letters():
            if isinstance(letter, WrongKey):
                wrong.append(letter)
                continue
            name, died = letter
            await self._redis.call("ZADD", keys.DEAD_LETTERS(root), "NX", died, name)
        return wrong

    async def _letters(self) -> AsyncIterator[tuple[str, WrongKey | tuple[str, bytes]]]:
        """Yield the root of each dead letter, with its name in the list and its time of death.

        For a letter of a wrong type, yield its root and the key.
        """
        async for names in self._scan(keys.DEAD_LETTER):
            for root, name in names:
                try:
                    died = await self._redis.call("HGET", name, "died")
                except WrongTypeError:
                    found = await self._redis.call("TYPE", name)
                    yield root, WrongKey(name, keys.DEAD_LETTER.type, found.decode())
                else:
                    yield root, (_named_in(keys.DEAD_LETTER, root, name), died or b"0")

    async def _list_batches(self) -> list[WrongKey]:
        """Add the stored batches, and the chunks to pack, to their lists; return wrong records.

        A batch that has not ended is looked at by the next chore.
        """
        wrong: list[WrongKey] = []
        async for names in self._scan(keys.BATCH):
            for root, name in names:
                try:
                    found = await self._redis.call("HMGET", name, *_BATCH_FIELDS)
                except WrongTypeError:
                    is_ = await self._redis.call("TYPE", name)
                    wrong.append(WrongKey(name, keys.BATCH.type, is_.decode()))
                    continue
                await self._list_batch(root, _named_in(keys.BATCH, root, name), found)
        async for names in self._scan(keys.BATCH_CHUNK):
            for root, name in names:
                if await self._redis.call("HGET", name, "left") == b"0":
                    chunk = _named_in(keys.BATCH_CHUNK, root, name)
                    await self._redis.call("ZADD", keys.BATCH_CHUNKS_TO_PACK(root), "NX", 0, chunk)
        return wrong

    async def _list_batch(self, root: str, name: str, found: list[bytes | None]) -> None:
        account, _, batch = name.partition(":")
        state, created, upload_ends, delete_at = found
        due = upload_ends or delete_at or b"0"
        await self._redis.call("ZADD", keys.BATCHES(root, account), "NX", created or 0, batch)
        await self._redis.call("ZADD", keys.BATCH_WORK(root), "NX", due, name)
        if state in {b"running", b"paused"}:
            await self._redis.call("ZADD", keys.OPEN_BATCHES(root, account), "NX", 0, batch)

    async def _scan(self, family: Key) -> AsyncIterator[list[tuple[str, str]]]:
        """Yield the root and name of each key of a family, in one pass over all keys."""
        cursor: bytes | int = 0
        starts = {_start(family, root): root for root in self._partitions()}
        pattern = family(f"{self._settings.redis.prefix}:*", *("*" for _ in family.parts))
        while True:
            cursor, names = await self._redis.call("SCAN", cursor, "MATCH", pattern, "COUNT", 500)
            yield list(_rooted(starts, (each.decode() for each in names)))
            if int(cursor) == 0:
                return


def _start(family: Key, root: str) -> str:
    return family(root, *("" for _ in family.parts))[: 1 - len(family.parts)]


def _rooted(starts: dict[str, str], names: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        for start, root in starts.items():
            if name.startswith(start):
                yield root, name


def _named_in(family: Key, root: str, name: str) -> str:
    """Return the `account:id` of a key's name, and what follows there."""
    return name.removeprefix(_start(family, root))


def _is_rebuildable_queue(root: str, key: WrongKey) -> bool:
    return not key.is_removed and keys.family_of(root, key.name) in _REBUILDABLE_QUEUES | _KEY_LISTS
