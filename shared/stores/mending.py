"""Keys that somebody else has overwritten: found, set aside, and the lines made anew.

For an operator's command. What stood in a key's place is renamed, never deleted. The lines of a
partition say nothing that the records of its unfinished generations do not say, so they are made
anew from these; what holds money or messages is only told of, since nothing else knows what was in
it.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final, NamedTuple

from shared.clock import Clock
from shared.errors import WrongKey, WrongTypeError
from shared.redis import functions, keys, types
from shared.redis.client import Connection
from shared.redis.functions import LANES, RestoreAsk
from shared.redis.keys import Key
from shared.settings import Settings
from shared.wire.account import Account

_AT_ONCE: Final = 200
# Lines of work, and notes of chores to come that can be done without.
_LINES: Final[frozenset[Key]] = frozenset({
    keys.LANE, keys.CLOCKS, keys.LEASES, keys.DEADLINES, keys.DEFERRED, keys.SUSPECTS,
    keys.READY, keys.UNFINISHED, keys.DAMAGED, keys.RECOUNT, keys.FORGOTTEN, keys.FORGETTING,
    keys.DEAD,
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
        return {root: wrong for root, wrong in found.items() if wrong}

    def _roots(self) -> list[str]:
        return [keys.system_root(self._settings.redis), *self._partitions()]

    def _partitions(self) -> list[str]:
        redis = self._settings.redis
        return [keys.partition_root(redis, number) for number in range(redis.partitions)]

    def _names(self, root: str) -> list[str]:
        redis = self._settings.redis
        return [
            account.id
            for account in self._accounts
            if keys.partition_root(redis, account.partition) == root
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
        restored = [await self._restore(root) for root in self._partitions()]
        mended.left.extend(await self._list_letters())
        return mended._replace(restored=sum(restored))

    async def _set_aside(self, root: str, key: WrongKey) -> str:
        place = key.name.removeprefix(root).replace(":", "-")
        aside = keys.SET_ASIDE(root, self._clock.now_ms(), place)
        await self._redis.call("RENAME", key.name, aside)
        return aside

    async def _restore(self, root: str) -> int:
        count, lease_ms = 0, int(self._settings.worker.lease_seconds * 1000)
        async for names in self._unfinished(root):
            ask = RestoreAsk(names=names, lease_ms=lease_ms)
            count += await functions.restore(self._redis, root, ask)
        return count

    async def _unfinished(self, root: str) -> AsyncIterator[list[tuple[str, str]]]:
        """Yield all that is unfinished, as either of the two lines tells that list it."""
        listed: list[tuple[str, str]] = []
        for name in await self._redis.call("ZRANGE", keys.DEADLINES(root), 0, -1):
            account, _, generation = name.decode().partition(":")
            listed.append((account, generation))
        for account in self._names(root):
            for lane in LANES:
                line = keys.UNFINISHED(root, account, lane)
                found = await self._redis.call("ZRANGE", line, 0, -1)
                listed += [(account, each.decode()) for each in found]
        names = list(dict.fromkeys(listed))
        for first in range(0, len(names), _AT_ONCE):
            yield names[first : first + _AT_ONCE]

    async def _list_letters(self) -> list[WrongKey]:
        """List the dead letters that are there; return those that are of another type."""
        wrong: list[WrongKey] = []
        async for root, name in self._letters():
            try:
                died = await self._redis.call("HGET", name, "died")
            except WrongTypeError:
                found = await self._redis.call("TYPE", name)
                wrong.append(WrongKey(name, keys.LETTER.type, found.decode()))
                continue
            listed = name.removeprefix(keys.LETTER(root, "", "")[:-1])
            await self._redis.call("ZADD", keys.DEAD(root), "NX", died or 0, listed)
        return wrong

    async def _letters(self) -> AsyncIterator[tuple[str, str]]:
        """Yield the root and the name of each dead letter, in one pass over all keys."""
        cursor: bytes | int = 0
        roots = {keys.LETTER(root, "", "")[:-1]: root for root in self._partitions()}
        pattern = keys.LETTER(f"{self._settings.redis.prefix}:*", "*", "*")
        while True:
            cursor, names = await self._redis.call("SCAN", cursor, "MATCH", pattern, "COUNT", 500)
            for name in (each.decode() for each in names):
                for start, root in roots.items():
                    if name.startswith(start):
                        yield root, name
            if int(cursor) == 0:
                return


def _is_line(root: str, key: WrongKey) -> bool:
    return not key.is_removed and keys.family_of(root, key.name) in _LINES
