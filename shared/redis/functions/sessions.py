"""Sessions: create, rename, delete, find the turns to read."""

from typing import NamedTuple, Self

from shared.errors import StoreError
from shared.redis import keys
from shared.redis.client import Connection, Reply
from shared.redis.functions.contract import Ask, KeepTimes, Rate, Rejected, text_of
from shared.redis.library import invoke
from shared.settings import Settings


class CreateSessionAsk(Ask, frozen=True, kw_only=True):
    """A session without a turn; it counts towards the `per_minute` submissions."""

    account: str
    id: str
    name: str
    per_minute: int
    sessions_max: int
    stored_bytes_max: int
    companion: str | None = None
    metadata: dict[str, str] | None = None
    idempotency: str | None = None
    fingerprint: str | None = None
    idempotency_ms: int | None = None


class NewSession(NamedTuple):
    """The session that a request created; `is_replayed`: an earlier request did."""

    id: str
    is_replayed: bool
    rate: Rate | None = None


async def create_session(
    redis: Connection, root: str, ask: CreateSessionAsk
) -> NewSession | Rejected:
    """Create an empty session; Rejected for a mismatch, or beyond the limit or a quota."""
    reply: list[Reply] = await invoke(redis, "create_session", root, ask)
    match [text_of(reply[0]), *reply[1:]]:
        case ["created", rate]:
            return NewSession(ask.id, is_replayed=False, rate=Rate(*rate))
        case ["created"]:
            return NewSession(ask.id, is_replayed=False)
        case ["replayed", session]:
            return NewSession(text_of(session), is_replayed=True)
        case ["limited", rate]:
            return Rejected("limited", rate=Rate(*rate))
        case ["quota", which, used, rate]:
            return Rejected("quota", text_of(which), Rate(*rate), used=int(used))
        case ["mismatch"]:
            return Rejected("mismatch")
        case _:
            raise StoreError(f"create_session answered {reply!r}")


class DeleteSessionAsk(Ask, frozen=True, kw_only=True):
    """Which session to delete; `channels` is the prefix of the workers' channels."""

    account: str
    id: str
    keep: KeepTimes
    channels: str

    @classmethod
    def of(cls, settings: Settings, account: str, session: str) -> Self:
        """Return the arguments for a session under these settings."""
        return cls(
            account=account,
            id=session,
            keep=KeepTimes.of(settings.retention),
            channels=keys.worker_channels(settings.redis),
        )


async def delete_session(redis: Connection, root: str, ask: DeleteSessionAsk) -> bool:
    """End what runs in a session and delete it; False where there is none."""
    if text_of(await invoke(redis, "delete_session", root, ask)) != "deleted":
        return False
    await delete_turns(redis, root, DeleteTurnsAsk(account=ask.account, id=ask.id))
    return True


class DeleteTurnsAsk(Ask, frozen=True, kw_only=True):
    """A session that was deleted."""

    account: str
    id: str


async def delete_turns(redis: Connection, root: str, ask: DeleteTurnsAsk) -> None:
    """Delete what the turns of a deleted session left, in as many calls as that takes."""
    while await invoke(redis, "delete_turns", root, ask):
        pass


class FindTurnsAsk(Ask, frozen=True, kw_only=True):
    """Turns of a session: from `first`, or else `count` of them, up to `last`."""

    account: str
    id: str
    last: int
    first: int | None = None
    count: int = 0
    bytes_max: int


class FoundTurns(NamedTuple):
    """The range of turns that exist; those up to `fitting` may be read at once.

    `session` has the fields of its record: name, created, active, companion, metadata, turns.
    """

    first: int
    last: int
    fitting: int
    session: list[bytes | None]


async def find_turns(redis: Connection, root: str, ask: FindTurnsAsk) -> FoundTurns | None:
    """Return a session's record and how many turns may be read at once; None if there is none."""
    reply: list[Reply] = await invoke(redis, "find_turns", root, ask, effect="none")
    if not reply:
        return None
    first, last, fitting, *session = reply
    return FoundTurns(first, last, fitting, session)


class RenameSessionAsk(Ask, frozen=True, kw_only=True):
    """Which session, and its new name."""

    account: str
    id: str
    name: str


async def rename_session(redis: Connection, root: str, ask: RenameSessionAsk) -> bool:
    """Rename a session; return whether there was one."""
    return bool(await invoke(redis, "rename_session", root, ask))
