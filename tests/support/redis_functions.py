"""Calls the Redis functions with defaults for what a test does not care about.

Owns the defaults, and one method for each step of a generation's life. Hides no reply: every method
returns what the function's Python stub returned.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Unpack

import msgspec

from shared import ids
from shared.errors import Failure
from shared.lifecycle import Stage, stage_in
from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.redis.functions import (
    Accepted,
    Cancelled,
    Claimed,
    KeepTimes,
    Reaped,
    Rejected,
    Replayed,
    Retried,
    Settled,
    StatusReply,
    Stop,
)
from shared.settings import RedisSettings
from shared.wire.account import CreditTotals
from shared.wire.message import AssistantMessage, encode_assistant
from shared.wire.submission import TURN_WIRE, WIRE, Submission, encode
from tests.support.call_options import AcceptOptions, DeadListOptions

CHANNELS = "workers:"
KEEP = KeepTimes(record_ms=60_000, events_ms=30_000)
LONG_MS = 60_000


class Ticket(NamedTuple):
    """The ids of an accepted generation; one without a session has its own id as its session's."""

    account: str
    session: str
    id: str


def bill(claimed: Claimed, cost: int) -> str:
    """Return what is due for an attempt, as an append carries it."""
    return f"{claimed.attempt} {cost} 10 20 0 0 0 alpha"


class RedisFunctions:
    """The functions of one partition, as the front, a worker and a reaper call them."""

    def __init__(self, redis: Connection, settings: RedisSettings, partition: int = 0) -> None:
        self.redis = redis
        self.settings = settings
        self.root = keys.partition_root(settings, partition)

    async def accept(
        self,
        account: str = "ann",
        session: str | None = None,
        *,
        is_new: bool | None = None,
        is_sessionless: bool = False,
        **options: Unpack[AcceptOptions],
    ) -> Accepted | Replayed | Rejected:
        """Accept a message into a session, or into a new one when none is named, or without one."""
        defaults: AcceptOptions = {
            "generation": ids.new_id(),
            "content": "Hello",
            "lane": "interactive",
            "model": "auto",
            "hold": 0,
            "deadline_ms": LONG_MS,
            "wire": TURN_WIRE if is_sessionless else 1,
            "per_minute": 60_000,
            "unfinished_max": 1_000,
            "waiting_max": 1_000,
            "running_max": 1_000,
            "stride": 1_000,
            "total_max": 10_000,
            "slots": 0,
            "rounds_max": 0,
            "sessions_max": 1_000_000,
            "stored_bytes_max": 1_000_000_000,
            "on_conflict": "enqueue",
            "name": "A talk",
            "fingerprint": "same",
            "idempotency_ms": LONG_MS,
        }
        ask = functions.AcceptAsk(
            account=account,
            key="key-1",
            session=None if is_sessionless else session or ids.new_id(),
            is_new=not is_sessionless and (session is None if is_new is None else is_new),
            message=ids.new_id(),
            keep=KEEP,
            channels=CHANNELS,
            **(defaults | options),
        )
        return await functions.accept(
            self.redis, self.root, ask, encode(Submission(session=ask.session))
        )

    async def submit(
        self, account: str = "ann", session: str | None = None, **options: Unpack[AcceptOptions]
    ) -> Ticket:
        """Accept a message; any other reply fails the test."""
        ticket = Ticket(account, session or ids.new_id(), options.get("generation") or ids.new_id())
        options["generation"] = ticket.id
        answer = await self.accept(account, ticket.session, is_new=session is None, **options)
        assert isinstance(answer, Accepted), answer
        return ticket

    async def submit_alone(self, account: str = "ann", **options: Unpack[AcceptOptions]) -> Ticket:
        """Accept a message without a session; any other reply fails the test."""
        id_ = options.setdefault("generation", ids.new_id())
        answer = await self.accept(account, is_sessionless=True, **options)
        assert isinstance(answer, Accepted), answer
        return Ticket(account, id_, id_)

    async def claim(
        self,
        count: int = 1,
        *,
        worker: str = "worker-1",
        lease_ms: int = LONG_MS,
        batch: int = 1_000,
        wire: int = WIRE,
        number: int = 0,
        unacknowledged: Sequence[int] = (),
        room: Mapping[str, int] | None = None,
        needs: Mapping[str, str] | None = None,
    ) -> list[Claimed]:
        """Claim generations that are ready, and parked ones that have room."""
        ask = functions.ClaimAsk(
            worker=worker,
            wire=wire,
            count=count,
            batch=batch,
            lease_ms=lease_ms,
            keep=KEEP,
            claim=number,
            unacknowledged=unacknowledged,
            room=room,
            needs=needs,
            recheck_ms=LONG_MS,
        )
        return (await functions.claim(self.redis, self.root, ask)).claimed

    async def claim_one(self, *, worker: str = "worker-1", lease_ms: int = LONG_MS) -> Claimed:
        """Claim one; the test fails where none is ready."""
        [claimed] = await self.claim(worker=worker, lease_ms=lease_ms)
        return claimed

    async def beat(self, *held: Claimed, lease_ms: int = LONG_MS) -> list[Stop]:
        """Renew the leases of claimed generations."""
        ask = functions.RenewLeasesAsk(
            lease_ms=lease_ms, held=[(one.account, one.id, one.attempt) for one in held]
        )
        return await functions.renew_leases(self.redis, self.root, ask)

    async def append(self, claimed: Claimed, seq: int, *texts: str) -> str:
        """Append a delta for each text, and enter `generating`."""
        ask = functions.AppendAsk(
            account=claimed.account,
            id=claimed.id,
            attempt=claimed.attempt,
            seq=seq,
            events=[
                msgspec.json.encode({"type": "delta", "text": text}).decode() for text in texts
            ],
            text="".join(texts) or None,
            stage="generating",
            progress=min(99, seq),
        )
        return await functions.append(self.redis, self.root, ask)

    async def finish_round(
        self,
        claimed: Claimed,
        seq: int,
        text: str,
        *,
        shown: str | None = None,
        entries: Sequence[str] = ("{}",),
        cost: int = 0,
    ) -> str:
        """Append a text with rounds that have finished by then.

        They have shown `shown` of the answer, or else what earlier ones have, and `text`.
        """
        kept = claimed.kept
        before = kept.text_bytes if kept else 0, kept.text_points if kept else 0
        own = text if shown is None else shown
        if shown is not None:
            before = 0, 0
        delta = msgspec.json.encode({"type": "delta", "text": text}).decode()
        ask = functions.AppendAsk(
            account=claimed.account,
            id=claimed.id,
            attempt=claimed.attempt,
            seq=seq,
            events=[delta] if text else ['{"type":"tool_call"}'],
            text=text or None,
            stage="generating",
            bill=bill(claimed, cost),
            rounds=functions.FinishedRounds(
                entries=entries,
                text_bytes=before[0] + len(own.encode()),
                text_points=before[1] + len(own),
                bill=bill(claimed, cost),
            ),
        )
        return await functions.append(self.redis, self.root, ask)

    async def suspend(
        self, claimed: Claimed, seq: int, wait_ms: int = LONG_MS, *, text: str = "", cost: int = 0
    ) -> str:
        """Let an attempt wait for a person, after a round that ends with this text."""
        kept = claimed.kept
        bytes_before, points_before = (kept.text_bytes, kept.text_points) if kept else (0, 0)
        ask = functions.SuspendAsk(
            account=claimed.account,
            id=claimed.id,
            attempt=claimed.attempt,
            seq=seq,
            events=[msgspec.json.encode({"type": "delta", "text": text}).decode()],
            text=text or None,
            stage="calling_tool",
            bill=bill(claimed, cost),
            rounds=functions.FinishedRounds(
                entries=["{}"],
                text_bytes=bytes_before + len(text.encode()),
                text_points=points_before + len(text),
                bill=bill(claimed, cost),
            ),
            until_ms=await self.now_ms() + wait_ms,
            keep=KEEP,
        )
        return await functions.suspend(self.redis, self.root, ask)

    async def resume(self, ticket: Ticket) -> str:
        """End the wait of a suspended generation."""
        ask = functions.ResumeAsk(account=ticket.account, id=ticket.id)
        return await functions.resume(self.redis, self.root, ask)

    async def now_ms(self) -> int:
        """Return the server's time."""
        seconds, micros = await self.redis.call("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def rounds(self, ticket: Ticket) -> list[str]:
        """Return the log of a generation's finished rounds."""
        where = keys.ROUNDS(self.root, ticket.account, ticket.id)
        return [entry.decode() for entry in await self.redis.call("LRANGE", where, 0, -1)]

    async def settle(
        self,
        claimed: Claimed,
        *,
        seq: int = 1,
        stage: Stage = "completed",
        cost: int = 0,
        text: str = "",
        meter: functions.Meter | None = None,
        failure: Failure | None = None,
        keep: KeepTimes = KEEP,
    ) -> Settled | None:
        """End an attempt."""
        ask = functions.SettleAsk(
            account=claimed.account,
            id=claimed.id,
            attempt=claimed.attempt,
            seq=seq,
            stage=stage,
            event=f'{{"type":"{stage}"}}',
            cost=cost,
            keep=keep,
            meter=meter,
            failure=failure,
            chosen=None if failure is None else "alpha",
        )
        message = AssistantMessage(
            status="completed" if stage == "completed" else "failed",
            content=text,
            created=claimed.claimed_ms,
        )
        return await functions.settle(self.redis, self.root, ask, encode_assistant(message))

    async def complete(
        self,
        claimed: Claimed,
        text: str = "Hi",
        *,
        cost: int = 0,
        meter: functions.Meter | None = None,
    ) -> Settled:
        """Append a text and settle; a refusal fails the test."""
        # The claim of a later attempt has written its first event.
        first = 1 if claimed.attempt == 1 else 2
        assert await self.append(claimed, first, text) == "appended"
        settled = await self.settle(claimed, seq=first + 1, cost=cost, text=text, meter=meter)
        assert settled is not None
        return settled

    async def release(
        self,
        claimed: Claimed,
        *,
        delay_ms: int = 0,
        calls: int = 0,
        why: str | None = None,
        parked: str | None = None,
        is_elsewhere: bool = False,
    ) -> str:
        """Release an attempt: its generation is requeued, deferred or parked."""
        ask = functions.ReleaseAsk(
            account=claimed.account,
            id=claimed.id,
            attempt=claimed.attempt,
            delay_ms=delay_ms,
            calls=calls,
            why=why,
            parked=parked,
            is_elsewhere=is_elsewhere,
            keep=KEEP,
        )
        return await functions.release(self.redis, self.root, ask)

    async def cancel(
        self, ticket: Ticket, call: str | None = None
    ) -> Cancelled | functions.AlreadyEnded | None:
        """Cancel a generation; `call` is the request's own id."""
        ask = functions.CancelAsk(
            account=ticket.account,
            id=ticket.id,
            keep=KEEP,
            channels=CHANNELS,
            call=call or ids.new_id(),
        )
        return await functions.cancel(self.redis, self.root, ask)

    async def reap(
        self,
        *,
        limit: int = 100,
        crashes_max: int = 3,
        gap_ms: int = 86_400_000,
        absent_ms: int = 86_400_000,
        beat_ms: int = 0,
        closed: Sequence[str] = (),
    ) -> Reaped:
        """Requeue or end what has lapsed.

        By default as if the fleet had reaped without a gap and no worker had been absent.
        """
        ask = functions.ReapAsk(
            limit=limit,
            crashes_max=crashes_max,
            lease_ms=2_000,
            gap_ms=gap_ms,
            absent_ms=absent_ms,
            channels=CHANNELS,
            keep=KEEP,
            beat_ms=beat_ms,
            closed=closed,
            recheck_ms=LONG_MS,
        )
        return await functions.reap(self.redis, self.root, ask)

    async def status(self, ticket: Ticket) -> StatusReply:
        """Return the status of a generation; the test fails where there is none."""
        found = await self.find(ticket.account, ticket.id)
        assert found is not None
        return found

    async def find(self, account: str, generation: str) -> StatusReply | None:
        """Return the status of a generation, or None."""
        ask = functions.StatusAsk(account=account, id=generation)
        return await functions.status(self.redis, self.root, ask)

    async def stage(self, ticket: Ticket) -> str:
        """Return a generation's stage."""
        return (await self.status(ticket)).record["stage"]

    async def shown_stage(self, ticket: Ticket) -> Stage:
        """Return a generation's stage as callers see it."""
        return stage_in((await self.status(ticket)).record)

    async def delete_session(self, account: str, session: str) -> bool:
        """Delete a session."""
        ask = functions.DeleteSessionAsk(account=account, id=session, keep=KEEP, channels=CHANNELS)
        return await functions.delete_session(self.redis, self.root, ask)

    async def rename_session(self, account: str, session: str, name: str) -> bool:
        """Rename a session."""
        ask = functions.RenameSessionAsk(account=account, id=session, name=name)
        return await functions.rename_session(self.redis, self.root, ask)

    async def grant(self, amount: int, account: str = "ann") -> int | functions.NotGranted:
        """Grant credits; a negative amount takes them."""
        ask = functions.GrantAsk(account=account, amount=amount)
        return await functions.grant(self.redis, self.root, ask)

    async def credit_totals(self, account: str = "ann") -> CreditTotals:
        """Return an account's credits."""
        where = keys.ACCOUNT_TOTALS(self.root, account)
        stored: dict[bytes, bytes] = await self.redis.call("HGETALL", where)
        fields = {name.decode(): int(value) for name, value in stored.items() if b"_" not in name}
        return msgspec.convert(fields, CreditTotals)

    async def events(self, ticket: Ticket) -> list[tuple[str, str]]:
        """Return the events of a generation, each with its id."""
        where = keys.EVENTS(self.root, ticket.account, ticket.id)
        stored: list[tuple[bytes, list[bytes]]] = await self.redis.call("XRANGE", where, "-", "+")
        return [(at.decode(), fields[1].decode()) for at, fields in stored]

    async def fail(
        self, claimed: Claimed, failure: Failure, *, keep: KeepTimes = KEEP
    ) -> Settled | None:
        """Settle an attempt as failed before its first word."""
        seq = 1 if claimed.attempt == 1 else 2
        return await self.settle(claimed, seq=seq, stage="failed", failure=failure, keep=keep)

    async def dead(
        self, count: int = 100, **asked: Unpack[DeadListOptions]
    ) -> list[functions.DeadLetterEntry]:
        """Return a page of the dead letters."""
        ask = functions.ListDeadLettersAsk(count=count, **({"keep": KEEP} | asked))
        return await functions.list_dead_letters(self.redis, self.root, ask)

    async def revive(
        self,
        ticket: Ticket,
        *,
        unfinished_max: int = 1_000,
        waiting_max: int = 1_000,
        total_max: int = 10_000,
        stored_bytes_max: int = 1_000_000_000,
    ) -> Retried | functions.RetryRefused:
        """Retry a dead letter."""
        ask = functions.RetryDeadLetterAsk(
            account=ticket.account,
            id=ticket.id,
            generation=ids.new_id(),
            message=ids.new_id(),
            unfinished_max=unfinished_max,
            waiting_max=waiting_max,
            total_max=total_max,
            stored_bytes_max=stored_bytes_max,
        )
        return await functions.retry_dead_letter(self.redis, self.root, ask)

    async def discard(self, *tickets: Ticket) -> list[bool]:
        """Discard dead letters."""
        ask = functions.DiscardDeadLettersAsk(
            names=[(ticket.account, ticket.id) for ticket in tickets]
        )
        return await functions.discard_dead_letters(self.redis, self.root, ask)
