"""Keys that somebody else has overwritten: found, set aside, and the lines made anew.

For an operator's command. What stood in a key's place is renamed, never deleted. The lines of a
partition say nothing that the records of its unfinished generations do not say, so they are made
anew from these, whichever of them are lost; accounts' lists of API keys from the keys' records.
What holds money or messages is only told of, since nothing else knows what was in it.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Final, NamedTuple

from shared.clock import Clock
from shared.errors import WrongKey, WrongTypeError
from shared.lifecycle import ENDS
from shared.redis import functions, keys, types
from shared.redis.client import Connection
from shared.redis.functions import RestoreAsk
from shared.redis.keys import Key
from shared.settings import Settings
from shared.stores import fleet
from shared.wire.account import Account

_AT_ONCE: Final = 200
# Lines of work, and notes of chores to come that can be done without.
_LINES: Final[frozenset[Key]] = frozenset({
    keys.LANE, keys.CLOCKS, keys.LEASES, keys.DEADLINES, keys.DEFERRED, keys.SUSPECTS,
    keys.READY, keys.UNFINISHED, keys.DAMAGED, keys.RECOUNT, keys.FORGOTTEN, keys.FORGETTING,
    keys.DEAD,
})  # fmt: skip
_KEY_LISTS: Final[frozenset[Key]] = frozenset({
    keys.ACCOUNT_KEYS, keys.KEY_ENDS, keys.KEYS_LISTED,
})  # fmt: skip


class Mended(NamedTuple):
    """What was done: by new name what was set aside, what is left, and places that were missing."""

    set_aside: dict[str, WrongKey]
    left: list[WrongKey]
    restored: int


class Mending:
    """The keys of a whole deployment, as an operator looks at them."""

    def __init__(
        self, redis: Connection, settings: Settings, accounts: Iterable[Account], clock: Clock
    ) -> None:
        self._redis = redis
        self._settings = settings
        self._accounts = tuple(accounts)
        self._clock = clock

    async def look(self) -> dict[str, list[WrongKey]]:
        """Return what is wrong, by root; nothing is changed."""
        found = {root: await self._look_at(root, may_remove=False) for root in self._roots()}
        async for root, letter in self._letters():
            if isinstance(letter, WrongKey):
                found[root].append(letter)
        return {root: wrong for root, wrong in found.items() if wrong}

    async def count_workers_in_the_way(self) -> int:
        """Return how many workers live, where `leases` is of another type; else 0.

        Where nothing tells who lives, since that key is of another type, too, there is one.
        """
        leases = types.ask((keys.LEASES(root), keys.LEASES.type, 0) for root in self._partitions())
        wrong = [
            key
            for root in self._partitions()
            for key in await functions.check_types(self._redis, root, leases)
        ]
        if not wrong:
            return 0
        root = keys.system_root(self._settings.redis)
        pulses = types.ask([(keys.PULSES(root), keys.PULSES.type, 0)])
        if await functions.check_types(self._redis, root, pulses):
            return 1
        return (await fleet.view(self._redis, self._settings.redis)).workers

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

    async def _look_at(self, root: str, *, may_remove: bool) -> list[WrongKey]:
        found: dict[str, WrongKey] = {}
        for expected in await self._expected(root):
            ask = types.ask((name, type_, again * may_remove) for name, type_, again in expected)
            for key in await functions.check_types(self._redis, root, ask):
                found[key.name] = key
        return list(found.values())

    async def _expected(self, root: str) -> list[Iterable[types.Expected]]:
        of_accounts = (types.of_account(root, name) for name in self._names(root))
        parked = types.parked(root, await self._parked_lines(root))
        return [types.shared_by_all(root), parked, *of_accounts]

    async def _parked_lines(self, root: str) -> list[tuple[str, str]]:
        try:
            listed = await self._redis.call("SMEMBERS", keys.PARKED_LINES(root))
        except WrongTypeError:
            return []
        names = (name.decode().partition(":") for name in listed)
        return [(lane, resource) for lane, _, resource in names]

    async def mend(self, note: Callable[[str, WrongKey], None] | None = None) -> Mended:
        """Set aside what stands in the place of lines, and put back what is missing from lines.

        The second is done whether or not anything was set aside just now: an earlier call may have
        been cut short in between. `note` is told at once of each key that was set aside.
        """
        mended = Mended({}, [], 0)
        for root in self._roots():
            for key in await self._look_at(root, may_remove=True):
                if _is_line(root, key):
                    aside = await self._set_aside(root, key)
                    mended.set_aside[aside] = key
                    if note is not None:
                        note(aside, key)
                elif not key.is_removed:
                    mended.left.append(key)
        # All API keys count as not listed, so whoever asks next has them put into the lists.
        system = keys.system_root(self._settings.redis)
        await self._redis.call("UNLINK", keys.KEYS_LISTED(system))
        restored = await self._restore()
        mended.left.extend(await self._list_letters())
        return mended._replace(restored=restored)

    async def _set_aside(self, root: str, key: WrongKey) -> str:
        place = key.name.removeprefix(root).replace(":", "-")
        aside = keys.SET_ASIDE(root, self._clock.now_ms(), place)
        await self._redis.call("RENAME", key.name, aside)
        return aside

    async def _restore(self) -> int:
        count, lease_ms = 0, int(self._settings.worker.lease_seconds * 1000)
        async for root, names in self._unfinished():
            for first in range(0, len(names), _AT_ONCE):
                ask = RestoreAsk(names=tuple(names[first : first + _AT_ONCE]), lease_ms=lease_ms)
                count += await functions.restore(self._redis, root, ask)
        return count

    async def _unfinished(self) -> AsyncIterator[tuple[str, list[tuple[str, str]]]]:
        """Yield what is unfinished, some of a root at a time, as the records tell.

        No line is asked: each of them may be what was lost.
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
            # The next reap sets aside what stands in a line and has no record.
            return None
        return None if stage is None else stage.decode()

    async def _list_letters(self) -> list[WrongKey]:
        """List the dead letters that are there; return those that are of another type."""
        wrong: list[WrongKey] = []
        async for root, letter in self._letters():
            if isinstance(letter, WrongKey):
                wrong.append(letter)
                continue
            name, died = letter
            await self._redis.call("ZADD", keys.DEAD(root), "NX", died, name)
        return wrong

    async def _letters(self) -> AsyncIterator[tuple[str, WrongKey | tuple[str, bytes]]]:
        """Yield the root of each dead letter, and its name in the list and when it died.

        Of those that are of another type the key.
        """
        async for names in self._scan(keys.LETTER):
            for root, name in names:
                try:
                    died = await self._redis.call("HGET", name, "died")
                except WrongTypeError:
                    found = await self._redis.call("TYPE", name)
                    yield root, WrongKey(name, keys.LETTER.type, found.decode())
                else:
                    yield root, (_named_in(keys.LETTER, root, name), died or b"0")

    async def _scan(self, family: Key) -> AsyncIterator[list[tuple[str, str]]]:
        """Yield the root and name of each key of a family, in one pass over all keys."""
        cursor: bytes | int = 0
        starts = {_start(family, root): root for root in self._partitions()}
        pattern = family(f"{self._settings.redis.prefix}:*", "*", "*")
        while True:
            cursor, names = await self._redis.call("SCAN", cursor, "MATCH", pattern, "COUNT", 500)
            yield list(_rooted(starts, (each.decode() for each in names)))
            if int(cursor) == 0:
                return


def _start(family: Key, root: str) -> str:
    return family(root, "", "")[:-1]


def _rooted(starts: dict[str, str], names: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        for start, root in starts.items():
            if name.startswith(start):
                yield root, name


def _named_in(family: Key, root: str, name: str) -> str:
    """Return `account:id` of a key."""
    return name.removeprefix(_start(family, root))


def _is_line(root: str, key: WrongKey) -> bool:
    return not key.is_removed and keys.family_of(root, key.name) in _LINES | _KEY_LISTS
