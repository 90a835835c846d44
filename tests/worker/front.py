"""What an API process does, without HTTP: submit, poll, follow, cancel.

Owns its accounts, in partitions that it chooses. Refuses to compute prices: a test sets the hold.
"""

import zlib
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from shared import ids
from shared.errors import Failure
from shared.redis import functions, keys
from shared.redis.client import Redis
from shared.redis.functions import (
    AcceptAsk,
    Accepted,
    Breaker,
    CancelAsk,
    Claimed,
    GrantAsk,
    KeepTimes,
)
from shared.settings import Settings
from shared.stores import generations, sessions
from shared.wire import event as events, submission as submissions
from shared.wire.account import CreditTotals
from shared.wire.generation import Generation
from shared.wire.message import AssistantMessage, encode_assistant
from shared.wire.submission import (
    AUTO,
    PLAIN,
    PLAIN_WIRE,
    TURN_WIRE,
    WIRE,
    Features,
    Lane,
    Submission,
)
from tests.support import waiting
from worker.resilience.circuit_breaker import CircuitBreaker

GRANT: Final = 10_000_000_000
HOLD: Final = 100_000


class Ticket(NamedTuple):
    """A generation that was submitted."""

    root: str
    account: str
    session: str
    id: str


class StreamEvent(NamedTuple):
    """One entry of a generation's stream."""

    epoch: int
    seq: int
    event: events.Event


class Front:
    """The front of a deployment, as far as tests of the workers need one."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.redis = redis
        self.settings = settings
        self._granted: set[str] = set()

    def partition_of(self, account: str) -> int:
        """Return the partition in which the account is."""
        return zlib.crc32(account.encode()) % self.settings.redis.partitions

    def root_of(self, account: str) -> str:
        """Return the root of the partition in which the account is."""
        return keys.partition_root(self.settings.redis, self.partition_of(account))

    async def submit(
        self,
        message: str = "hello",
        *,
        account: str = "ann",
        session: str | None = None,
        lane: Lane = "interactive",
        model: str = AUTO,
        hold: int = HOLD,
        max_output_tokens: int = 64,
        deadline_ms: int = 60_000,
        wire: int = PLAIN_WIRE,
        system_prompt: str | None = None,
        enhance_prompt: bool = True,
        features: Features = PLAIN,
        blob: bytes | None = None,
        is_sessionless: bool = False,
    ) -> Ticket:
        """Accept a message; a session that is not named is a new one, unless `is_sessionless`."""
        root = self.root_of(account)
        if account not in self._granted:
            self._granted.add(account)
            await functions.grant(self.redis, root, GrantAsk(account=account, amount=GRANT))
        id_ = ids.new_id()
        ticket = Ticket(root, account, id_ if is_sessionless else session or ids.new_id(), id_)
        own_session = None if is_sessionless else ticket.session
        ask = AcceptAsk(
            account=account,
            key="key-1",
            generation=ticket.id,
            session=own_session,
            is_new=session is None and not is_sessionless,
            message=ids.new_id(),
            content=message,
            lane=lane,
            wire=TURN_WIRE if is_sessionless else wire,
            model=model,
            hold=hold,
            deadline_ms=deadline_ms,
            per_minute=1_000_000,
            unfinished_max=100_000,
            waiting_max=100_000,
            running_max=100_000,
            stride=1_000,
            total_max=1_000_000,
            slots=0,
            rounds_max=0,
            sessions_max=1_000_000,
            stored_bytes_max=1_000_000_000,
            keep=KeepTimes.of(self.settings.retention),
            channels=self._channels(),
            name="a session",
            system_prompt=system_prompt,
            media=features.media_urls or None,
        )
        asked = Submission(
            session=own_session,
            model=model,
            max_output_tokens=max_output_tokens,
            enhance_prompt=enhance_prompt,
            features=features,
        )
        accepted = await functions.accept(
            self.redis, root, ask, submissions.encode(asked) if blob is None else blob
        )
        assert isinstance(accepted, Accepted), accepted
        return ticket

    async def claim(self, ticket: Ticket, *, lease_ms: int = 60_000) -> Claimed:
        """Claim a generation as a worker would, without being one."""
        ask = functions.ClaimAsk(
            claim=1,
            worker="nobody",
            wire=WIRE,
            count=1,
            lease_ms=lease_ms,
            batch=1,
            keep=KeepTimes.of(self.settings.retention),
        )
        [claimed] = (await functions.claim(self.redis, ticket.root, ask)).claimed
        assert claimed.id == ticket.id
        # This worker has no listener, and must not be declared dead for that.
        await self.redis.call("ZREM", keys.CLAIMING_WORKERS(ticket.root), "nobody")
        return claimed

    async def fail(self, claimed: Claimed, failure: Failure) -> None:
        """End an attempt that this process has claimed."""
        ask = functions.SettleAsk(
            account=claimed.account,
            id=claimed.id,
            attempt=claimed.attempt,
            seq=1,
            stage="failed",
            event=events.encode(events.Failed(failure)),
            cost=0,
            keep=KeepTimes.of(self.settings.retention),
            failure=failure,
        )
        message = AssistantMessage(status="failed", content="", created=0, failure=failure)
        record = encode_assistant(message)
        assert await functions.settle(self.redis, claimed.root, ask, record) is not None

    async def poll(self, ticket: Ticket) -> Generation:
        """Return the status of a generation."""
        found = await generations.find(self.redis, ticket.root, ticket.account, ticket.id)
        assert found is not None
        # The time of the poll is no part of the status.
        return msgspec.structs.replace(found, seen=0)

    async def seen(
        self, ticket: Ticket, condition: Callable[[Generation], object], seconds: float = 10.0
    ) -> Generation:
        """Wait until a generation meets a condition, and return it."""

        async def looked() -> Generation | None:
            found = await self.poll(ticket)
            return found if condition(found) else None

        found: Generation = await waiting.until(looked, seconds, what="a generation")
        return found

    async def end(self, ticket: Ticket, seconds: float = 10.0) -> Generation:
        """Wait until a generation has ended, and return it."""
        return await self.seen(ticket, lambda found: found.is_final, seconds)

    async def cancel(self, ticket: Ticket) -> object:
        """Cancel a generation and return the result."""
        ask = CancelAsk(
            account=ticket.account,
            id=ticket.id,
            keep=KeepTimes.of(self.settings.retention),
            channels=self._channels(),
            call=ids.new_id(),
        )
        return await functions.cancel(self.redis, ticket.root, ask)

    async def hasten(self, ticket: Ticket) -> None:
        """Make a deferred generation due now, and move it to its lane."""
        name = f"{ticket.account}:{ticket.id}"
        assert await self.redis.call("ZADD", keys.DEFERRED(ticket.root), "XX", "CH", 1, name)
        await self._reap(ticket)

    async def requeue_crashed(self, ticket: Ticket) -> None:
        """Let the lease of a dead worker lapse, and return its generation to the queue."""
        name = f"{ticket.account}:{ticket.id}"
        assert await self.redis.call("ZADD", keys.LEASES(ticket.root), "XX", "CH", 1, name)
        await self._reap(ticket)

    async def _reap(self, ticket: Ticket) -> None:
        worker = self.settings.worker
        ask = functions.ReapAsk(
            limit=100,
            crashes_max=worker.crashes_max,
            lease_ms=int(worker.lease_seconds * 1000),
            # However long a busy machine takes between two reaps, this fleet was not away.
            gap_ms=86_400_000,
            absent_ms=86_400_000,
            channels=self._channels(),
            keep=KeepTimes.of(self.settings.retention),
        )
        await functions.reap(self.redis, ticket.root, ask)

    async def thaw(self, *circuit_breakers: CircuitBreaker) -> None:
        """Make every open breaker due for a probe now, and report that to circuit breakers."""
        root = keys.system_root(self.settings.redis)
        names = await self.redis.call("ZRANGE", keys.COOLING(root), 0, -1)
        for name in names:
            await self.redis.call("HSET", keys.BREAKER(root, name.decode()), "due", 1)
        for circuit_breaker in circuit_breakers:
            circuit_breaker.update({name.decode(): Breaker("due") for name in names}, frozenset())

    async def stream_events(self, ticket: Ticket) -> list[StreamEvent]:
        """Return the events of the generation's stream."""
        name = keys.EVENTS(ticket.root, ticket.account, ticket.id)
        entries = await self.redis.call("XRANGE", name, "-", "+")
        return [_stream_event(*entry) for entry in entries]

    async def credit_totals(self, account: str = "ann") -> CreditTotals:
        """Return an account's credits."""
        fields = await self.redis.call(
            "HGETALL", keys.ACCOUNT_TOTALS(self.root_of(account), account)
        )
        wanted = ("granted", "balance", "held", "settled", "overrun")
        return CreditTotals(**{name: int(fields.get(name.encode(), 0)) for name in wanted})

    async def record(self, ticket: Ticket) -> dict[str, str]:
        """Return the generation's record, field by field."""
        name = keys.GENERATION(ticket.root, ticket.account, ticket.id)
        fields = await self.redis.call("HGETALL", name)
        return {field.decode(): value.decode() for field, value in fields.items()}

    async def turns(self, ticket: Ticket, last: int) -> list[sessions.Turn]:
        """Return the turns of a generation's session, up to the last."""
        return await sessions.turns(
            self.redis, ticket.root, ticket.account, ticket.session, first=1, last=last
        )

    def _channels(self) -> str:
        return keys.worker_channels(self.settings.redis)


def text_of(stream_events: list[StreamEvent]) -> str:
    """Return the text that a follower ends with: deltas, minus those that a reset drops."""
    text = ""
    for _, _, event in stream_events:
        if isinstance(event, events.Delta):
            text += event.text
        elif isinstance(event, events.Reset):
            text = text[: event.keep]
    return text


def _stream_event(at: bytes, fields: list[bytes]) -> StreamEvent:
    epoch, _, seq = at.decode().partition("-")
    return StreamEvent(int(epoch), int(seq), events.decode(fields[1]))
