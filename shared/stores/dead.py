"""The dead letters of all accounts: to be listed, looked at, asked again, discarded.

Owns the order of the list over all partitions, newest first, and what may be looked for in it. What
is done to many is done in pieces, so that Redis is never long at one. Refuses to know who asks:
that is for an operator alone.
"""

import heapq
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

import msgspec
from typing_extensions import override

from shared import ids
from shared.errors import Category, Code, Failure
from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.redis.functions import Buried, DeadAsk, DiscardAsk, NotRevived, ReviveAsk, Revived
from shared.settings import Settings
from shared.stores import pressure
from shared.stores.accounts import Accounts
from shared.stores.pressure import has_memory
from shared.wire import submission as submissions
from shared.wire.letter import Asked, Attempt, Letter, Name
from shared.wire.message import decode_user

# What one call of Redis looks at or forgets, and how many such looks one listing takes.
PIECE: Final = 100
_PIECES_MAX: Final = 100

# Why a dead letter is not asked again, for a program and for a person.
REFUSALS: Final[dict[str, tuple[Code, str]]] = {
    "unknown": (Code.NOT_FOUND, "There is no such dead letter."),
    "unreadable": (Code.GENERATION_ERROR, "What was asked can no longer be read."),
    "no_session": (Code.SESSION_NOT_FOUND, "Its session was deleted."),
    "crowded": (Code.RATE_LIMITED, "Its account has as many unfinished generations as it may."),
    "waiting": (Code.RATE_LIMITED, "Its session has as many waiting messages as it may."),
    "full": (Code.QUEUE_FULL, "The queue is full."),
    "quota": (Code.QUOTA_EXCEEDED, "Its account stores as much as it may."),
    "poor": (Code.INSUFFICIENT_CREDITS, "Its account has too few credits for the answer."),
}

_decode_failure = msgspec.msgpack.Decoder(Failure).decode


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters are looked for; `model` as asked for or as chosen, both times still in."""

    category: Category | None = None
    code: str | None = None
    provider: str | None = None
    model: str | None = None
    account: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def fits(self, letter: Letter) -> bool:
        """Tell whether a letter is one of them; its time was asked of Redis."""
        failure = letter.failure
        return (
            self.category in {None, failure.category}
            and self.code in {None, failure.code}
            and self.provider in {None, failure.provider}
            and self.model in {None, letter.model, letter.chosen}
            and self.account in {None, letter.name.account}
        )


ALL: Final = Wanted()


class Place(NamedTuple):
    """Where in the list: behind the letter that died then, of that name."""

    died: int
    account: str
    id: str

    @override
    def __str__(self) -> str:
        """Return it as a page names where the next one begins."""
        return f"{self.died}.{self.account}.{self.id}"

    @classmethod
    def parse(cls, text: str) -> "Place | None":
        """Read a place as `str` writes it; None where it is none."""
        died, _, name = text.partition(".")
        account, _, id_ = name.partition(".")
        is_time = died.isascii() and died.isdecimal() and len(died) <= _DIGITS_MAX
        is_one = is_time and ids.is_id(account) and ids.is_id(id_)
        return cls(int(died), account, id_) if is_one else None


_DIGITS_MAX: Final = 15


class Page(NamedTuple):
    """A part of the list; `next` is where the following one begins, None after the last."""

    letters: list[Letter]
    next: Place | None


class Kept(NamedTuple):
    """A letter with what its caller had asked."""

    letter: Letter
    asked: Asked


class DeadLetters:
    """The dead letters of one deployment."""

    def __init__(self, redis: Connection, accounts: Accounts, settings: Settings) -> None:
        self._redis = redis
        self._accounts = accounts
        self._settings = settings

    async def page(self, wanted: Wanted, after: Place | None = None) -> Page:
        """Return what is wanted among the next hundred letters: some, all of them, or none."""
        found: list[list[Buried]] = [
            await functions.dead(self._redis, root, self._ask(wanted, after))
            for root in await self._roots(wanted)
        ]
        merged = list(heapq.merge(*found, key=_order, reverse=True))[:PIECE]
        letters = [_letter(buried) for buried in merged if buried.record]
        # Every partition's page is as long as the whole: a shorter whole is the end of all.
        last = Place(*merged[-1][:3]) if len(merged) == PIECE else None
        return Page([letter for letter in letters if wanted.fits(letter)], last)

    async def listing(self, wanted: Wanted, after: Place | None, limit: int) -> Page:
        """Return the first `limit` that are wanted, or fewer where finding them takes too long."""
        letters: list[Letter] = []
        place = after
        for _ in range(_PIECES_MAX):
            found, place = await self.page(wanted, place)
            letters += found
            if len(letters) > limit:
                last = letters[limit - 1]
                return Page(letters[:limit], Place(last.died, *last.name))
            if len(letters) == limit or place is None:
                break
        return Page(letters, place)

    async def pages(self, wanted: Wanted, limit: int | None = None) -> AsyncIterator[list[Letter]]:
        """Yield what is wanted, at most so many, page by page; they may go meanwhile."""
        place: Place | None = None
        while limit is None or limit > 0:
            letters, place = await self.page(wanted, place)
            yield letters[:limit]
            limit = None if limit is None else limit - len(letters)
            if place is None:
                return

    async def find(self, name: Name) -> Kept | None:
        """Return a dead letter, also one that was retried, or None."""
        root = await self._root(name.account)
        if root is None:
            return None
        record: dict[bytes, bytes] = await self._redis.call("HGETALL", keys.LETTER(root, *name))
        if not record:
            return None
        fields = {field.decode(): value for field, value in record.items()}
        letter = _letter(Buried(int(fields["died"]), *name, fields))
        return Kept(letter, _asked(fields))

    async def retry(self, name: Name) -> Revived | NotRevived:
        """Ask again what a dead letter holds, as a generation of its own; once, however often."""
        account = await self._accounts.find(name.account)
        if account is None:
            return NotRevived("unknown")
        limits, root = self._settings.limits, self._accounts.root_of(account)
        tier = limits.of(account.tier)
        if not has_memory(
            await pressure.look(self._redis, root), limits, "interactive", account.tier
        ):
            return NotRevived("full")
        ask = ReviveAsk(
            account=name.account,
            id=name.id,
            generation=ids.new_id(),
            message=ids.new_id(),
            unfinished_max=tier.unfinished_max,
            waiting_max=limits.waiting_per_session,
            total_max=limits.unfinished_total,
            stored_bytes_max=tier.stored_bytes_max,
        )
        return await functions.revive(self._redis, root, ask)

    async def discard(self, names: list[Name]) -> list[bool]:
        """Forget dead letters; return of each whether it was there."""
        gone: dict[Name, bool] = {}
        for root, here in (await self._by_root(names)).items():
            for first in range(0, len(here), PIECE):
                piece = here[first : first + PIECE]
                ask = DiscardAsk(names=[(name.account, name.id) for name in piece])
                told = await functions.discard(self._redis, root, ask)
                gone |= dict(zip(piece, told, strict=True))
        return [gone.get(name, False) for name in names]

    def _ask(self, wanted: Wanted, after: Place | None) -> DeadAsk:
        return DeadAsk(
            count=PIECE,
            keep=functions.Keep.of(self._settings.retention),
            after_ms=after.died if after else None,
            after=f"{after.account}:{after.id}" if after else None,
            since_ms=wanted.since_ms,
            until_ms=wanted.until_ms,
        )

    async def _by_root(self, names: list[Name]) -> dict[str, list[Name]]:
        roots = {account: await self._root(account) for account in {name.account for name in names}}
        sorted_: dict[str, list[Name]] = {}
        for name in names:
            root = roots[name.account]
            if root is not None:
                sorted_.setdefault(root, []).append(name)
        return sorted_

    async def _roots(self, wanted: Wanted) -> list[str]:
        if wanted.account is not None:
            root = await self._root(wanted.account)
            return [] if root is None else [root]
        redis = self._settings.redis
        return [keys.partition_root(redis, number) for number in range(redis.partitions)]

    async def _root(self, account: str) -> str | None:
        found = await self._accounts.find(account) if ids.is_id(account) else None
        return None if found is None else self._accounts.root_of(found)


def _order(buried: Buried) -> tuple[int, str]:
    """Return what the list is sorted by: the time, then the name as the set in Redis has it."""
    return buried.died_ms, f"{buried.account}:{buried.id}"


def _letter(buried: Buried) -> Letter:
    record = buried.record
    return Letter(
        name=Name(buried.account, buried.id),
        session=record["session"].decode(),
        turn=int(record["turn"]),
        lane="batch" if record["lane"] == b"batch" else "interactive",
        model=record["model"].decode(),
        failure=_decode_failure(record["failure"]),
        attempt=int(record["attempt"]),
        attempts=tuple(map(_attempt, record["attempts"].decode().split("\n"))),
        accepted=int(record["accepted"]),
        died=buried.died_ms,
        hold=int(record["hold"]),
        key=record["key"].decode(),
        chosen=_text(record, "chosen"),
        retried_as=_text(record, "retried_as"),
    )


def _attempt(line: str) -> Attempt:
    attempt, started, ended, worker, why = line.split(" ", 4)
    return Attempt(int(attempt), int(started), int(ended), worker, why)


def _asked(record: dict[str, bytes]) -> Asked:
    try:
        message = decode_user(record["message"])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        message = None
    try:
        submission = submissions.decode(record["submission"])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        submission = None
    return Asked(message, submission)


def _text(record: dict[str, bytes], name: str) -> str | None:
    return record[name].decode() if name in record else None
