"""Lists, shows, retries and discards the dead letters of all accounts.

Owns their order over all partitions, newest first, and the filters. Works in pages of 100, so that
no call occupies Redis for long. Checks no permission: only operators may use it.
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
from shared.redis.functions import (
    DeadLetterEntry,
    DiscardDeadLettersAsk,
    ListDeadLettersAsk,
    Retried,
    RetryDeadLetterAsk,
    RetryRefused,
)
from shared.settings import Settings
from shared.stores import generations, partition_load
from shared.stores.accounts import Accounts
from shared.stores.partition_load import has_memory
from shared.wire import submission as submissions
from shared.wire.dead_letter import DeadLetter, DeadLetterName, EndedAttempt, OriginalRequest
from shared.wire.message import decode_user

# Letters read or deleted in one call of Redis, and such calls in one listing.
PAGE_LETTERS: Final = 100
_PAGES_PER_LISTING_MAX: Final = 100

# Why a dead letter is not retried: for a program, and for a person.
RETRY_REFUSALS: Final[dict[str, tuple[Code, str]]] = {
    "unknown": (Code.NOT_FOUND, "There is no such dead letter."),
    "unreadable": (Code.GENERATION_ERROR, "The original request can no longer be read."),
    "no_session": (Code.SESSION_NOT_FOUND, "Its session was deleted."),
    "crowded": (Code.RATE_LIMITED, "Its account has reached its limit of unfinished generations."),
    "waiting": (Code.RATE_LIMITED, "Its session has reached its limit of waiting messages."),
    "full": (Code.QUEUE_FULL, "The queue is full."),
    "quota": (Code.QUOTA_EXCEEDED, "Its account has reached its storage quota."),
    "poor": (Code.INSUFFICIENT_CREDITS, "Its account has too few credits for the answer."),
    "in_batch": (
        Code.INVALID_FIELDS,
        "It is an item of a batch, whose failures are run again by a retry of the batch.",
    ),
}

_decode_failure = msgspec.msgpack.Decoder(Failure).decode


class DeadLetterFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters to find; `model` as requested or as chosen; both times are included."""

    category: Category | None = None
    code: str | None = None
    provider: str | None = None
    model: str | None = None
    account: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def matches(self, letter: DeadLetter) -> bool:
        """Tell whether a letter matches; the times are compared by Redis."""
        failure = letter.failure
        return (
            self.category in {None, failure.category}
            and self.code in {None, failure.code}
            and self.provider in {None, failure.provider}
            and self.model in {None, letter.model, letter.chosen}
            and self.account in {None, letter.name.account}
        )


ALL: Final = DeadLetterFilter()


class PageCursor(NamedTuple):
    """Where a page begins: behind the letter of that name that died then."""

    died: int
    account: str
    id: str

    @override
    def __str__(self) -> str:
        """Return it as pages name where the next one begins."""
        return f"{self.died}.{self.account}.{self.id}"

    @classmethod
    def parse(cls, text: str) -> "PageCursor | None":
        """Read a cursor as `str` writes it; None for any other text."""
        died, _, name = text.partition(".")
        account, _, id_ = name.partition(".")
        is_time = died.isascii() and died.isdecimal() and len(died) <= _DIGITS_MAX
        is_one = is_time and ids.is_id(account) and ids.is_id(id_)
        return cls(int(died), account, id_) if is_one else None


_DIGITS_MAX: Final = 15


class Page(NamedTuple):
    """A part of the list; `next` is where the following page begins, None after the last."""

    letters: list[DeadLetter]
    next: PageCursor | None


class DeadLetterDetail(NamedTuple):
    """A letter, and what its caller had asked."""

    letter: DeadLetter
    asked: OriginalRequest


class DeadLetters:
    """The dead letters of one deployment."""

    def __init__(self, redis: Connection, accounts: Accounts, settings: Settings) -> None:
        self._redis = redis
        self._accounts = accounts
        self._settings = settings

    async def page(self, letter_filter: DeadLetterFilter, after: PageCursor | None = None) -> Page:
        """Return the matching letters among the next hundred: possibly none."""
        found: list[list[DeadLetterEntry]] = [
            await functions.list_dead_letters(self._redis, root, self._ask(letter_filter, after))
            for root in await self._roots(letter_filter)
        ]
        merged = list(heapq.merge(*found, key=_order, reverse=True))[:PAGE_LETTERS]
        letters = [_letter(entry) for entry in merged if entry.record]
        # Each partition returns up to a full page, so a shorter merged page is the last one.
        last = PageCursor(*merged[-1][:3]) if len(merged) == PAGE_LETTERS else None
        return Page([letter for letter in letters if letter_filter.matches(letter)], last)

    async def list_letters(
        self, letter_filter: DeadLetterFilter, after: PageCursor | None, limit: int
    ) -> Page:
        """Return the first `limit` matching letters, or fewer if that takes too many calls."""
        letters: list[DeadLetter] = []
        cursor = after
        for _ in range(_PAGES_PER_LISTING_MAX):
            found, cursor = await self.page(letter_filter, cursor)
            letters += found
            if len(letters) > limit:
                last = letters[limit - 1]
                return Page(letters[:limit], PageCursor(last.died, *last.name))
            if len(letters) == limit or cursor is None:
                break
        return Page(letters, cursor)

    async def pages(
        self, letter_filter: DeadLetterFilter, limit: int | None = None
    ) -> AsyncIterator[list[DeadLetter]]:
        """Yield matching letters page by page, at most `limit`; some may disappear meanwhile."""
        cursor: PageCursor | None = None
        while limit is None or limit > 0:
            letters, cursor = await self.page(letter_filter, cursor)
            yield letters[:limit]
            limit = None if limit is None else limit - len(letters)
            if cursor is None:
                return

    async def find(self, name: DeadLetterName) -> DeadLetterDetail | None:
        """Return a dead letter, also one that was retried, or None."""
        root = await self._root(name.account)
        if root is None:
            return None
        record: dict[bytes, bytes] = await self._redis.call(
            "HGETALL", keys.DEAD_LETTER(root, *name)
        )
        if not record:
            return None
        fields = {field.decode(): value for field, value in record.items()}
        letter = _letter(DeadLetterEntry(int(fields["died"]), *name, fields))
        return DeadLetterDetail(letter, _asked(fields))

    async def retry(self, name: DeadLetterName) -> Retried | RetryRefused:
        """Retry a dead letter as a new generation; repeating this makes no second one."""
        account = await self._accounts.find(name.account)
        if account is None:
            return RetryRefused("unknown")
        limits, root = self._settings.limits, self._accounts.root_of(account)
        tier = limits.of(account.tier)
        if not has_memory(
            await partition_load.read_load(self._redis, root), limits, "interactive", account.tier
        ):
            return RetryRefused("full")
        ask = RetryDeadLetterAsk(
            account=name.account,
            id=name.id,
            generation=ids.new_id(),
            message=ids.new_id(),
            unfinished_max=tier.unfinished_max,
            waiting_max=limits.waiting_per_session,
            total_max=limits.unfinished_total,
            stored_bytes_max=tier.stored_bytes_max,
        )
        return await functions.retry_dead_letter(self._redis, root, ask)

    async def discard(self, names: list[DeadLetterName]) -> list[bool]:
        """Delete dead letters; return of each whether it was there."""
        gone: dict[DeadLetterName, bool] = {}
        for root, in_partition in (await self._by_root(names)).items():
            for first in range(0, len(in_partition), PAGE_LETTERS):
                batch = in_partition[first : first + PAGE_LETTERS]
                ask = DiscardDeadLettersAsk(names=[(name.account, name.id) for name in batch])
                was_deleted = await functions.discard_dead_letters(self._redis, root, ask)
                gone |= dict(zip(batch, was_deleted, strict=True))
        return [gone.get(name, False) for name in names]

    def _ask(self, letter_filter: DeadLetterFilter, after: PageCursor | None) -> ListDeadLettersAsk:
        return ListDeadLettersAsk(
            count=PAGE_LETTERS,
            keep=functions.KeepTimes.of(self._settings.retention),
            after_ms=after.died if after else None,
            after=f"{after.account}:{after.id}" if after else None,
            since_ms=letter_filter.since_ms,
            until_ms=letter_filter.until_ms,
        )

    async def _by_root(self, names: list[DeadLetterName]) -> dict[str, list[DeadLetterName]]:
        roots = {account: await self._root(account) for account in {name.account for name in names}}
        by_root: dict[str, list[DeadLetterName]] = {}
        for name in names:
            root = roots[name.account]
            if root is not None:
                by_root.setdefault(root, []).append(name)
        return by_root

    async def _roots(self, letter_filter: DeadLetterFilter) -> list[str]:
        if letter_filter.account is not None:
            root = await self._root(letter_filter.account)
            return [] if root is None else [root]
        redis = self._settings.redis
        return [keys.partition_root(redis, number) for number in range(redis.partitions)]

    async def _root(self, account: str) -> str | None:
        found = await self._accounts.find(account) if ids.is_id(account) else None
        return None if found is None else self._accounts.root_of(found)


def _order(entry: DeadLetterEntry) -> tuple[int, str]:
    """Return the sort key of the list: the time, then the name as Redis sorts it."""
    return entry.died_ms, f"{entry.account}:{entry.id}"


def _letter(entry: DeadLetterEntry) -> DeadLetter:
    record = entry.record
    return DeadLetter(
        name=DeadLetterName(entry.account, entry.id),
        session=generations.session_of(entry.id, record["session"].decode()),
        turn=int(record["turn"]),
        lane="batch" if record["lane"] == b"batch" else "interactive",
        model=record["model"].decode(),
        failure=_decode_failure(record["failure"]),
        attempt=int(record["attempt"]),
        attempts=tuple(map(_attempt, record["attempts"].decode().split("\n"))),
        accepted=int(record["accepted"]),
        died=entry.died_ms,
        hold=int(record["hold"]),
        key=record["key"].decode(),
        chosen=_text(record, "chosen"),
        retried_as=_text(record, "retried_as"),
    )


def _attempt(line: str) -> EndedAttempt:
    attempt, started, ended, worker, why = line.split(" ", 4)
    return EndedAttempt(int(attempt), int(started), int(ended), worker, why)


def _asked(record: dict[str, bytes]) -> OriginalRequest:
    try:
        message = decode_user(record["message"])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        message = None
    try:
        submission = submissions.decode(record["submission"])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        submission = None
    return OriginalRequest(message, submission)


def _text(record: dict[str, bytes], name: str) -> str | None:
    return record[name].decode() if name in record else None
