"""One scenario without processes in which everything happens once, in a few milliseconds.

Calls the Redis functions as a front, workers and a reaper do: two accounts talk, a worker is taken
for dead and writes on, another drains, an upstream fails, a client cancels what a dead worker
holds, the server stalls. Times in Redis are moved instead of waited for. Does not judge: whatever a
function replies, the scenario goes on, and `invariants` checks what is left.
"""

from collections import Counter
from contextlib import suppress
from typing import Final, Literal, NamedTuple, get_args

import msgspec

from shared.errors import CRASHED, StoreError
from shared.lifecycle import ENDS, Stage
from shared.redis import functions, keys
from shared.redis.functions import Accepted, Claimed
from shared.wire import event as events
from shared.wire.message import (
    AssistantMessage,
    Usage,
    decode_assistant,
    decode_user,
    encode_assistant,
)
from tests.chaos.evidence import (
    AcceptedMessage,
    Evidence,
    Sample,
    ShownEnd,
    UpstreamCall,
    calls_in,
    question,
)
from tests.support.redis_functions import KEEP, RedisFunctions, Ticket

_GRANT: Final = 1_000_000
_HOLD: Final = 500
_COST: Final = 120
_WORDS: Final = 6
_LEASE_MS: Final = 60_000
_ROUNDS_MAX: Final = 12
_LONG_AGO_MS: Final = 5_000

Ending = Literal["completed", "failed"]


class Attempt(NamedTuple):
    """A claim, and the upstream call of it."""

    claimed: Claimed
    upstream_call: UpstreamCall

    @property
    def words(self) -> list[str]:
        """The answer in pieces, as it is appended."""
        head, *words = self.upstream_call.answer.split("] ")
        return [f"{head}]", *(f" {word}" for word in " ".join(words).split())]


class FullScenario:
    """The scenario on one partition, and its evidence.

    `sent` are the messages that were posted, accepted or not yet; `call_attempts` the generation
    and the attempt of each upstream call.
    """

    def __init__(self, queue: RedisFunctions, evidence: Evidence | None = None) -> None:
        self.queue = queue
        self.evidence = evidence or Evidence(disturbed=Counter())
        self.sent: list[AcceptedMessage] = []
        self.call_attempts: list[tuple[str, int]] = []
        self._seqs: Counter[tuple[str, int]] = Counter()

    async def run(self) -> Evidence:
        """Run the scenario until nothing is unfinished."""
        for account in ("ann", "bob"):
            self.evidence.granted[account] = _GRANT
            await self.queue.grant(_GRANT, account)
        await self.plain_conversations()
        await self.without_session()
        await self.append_after_lost_lease()
        await self.settle_after_lost_lease()
        await self.drain()
        await self.failing_upstream()
        await self.cancel_with_dead_worker()
        await self.server_stall()
        await self.run_until_idle()
        return self.evidence

    # What happens

    async def plain_conversations(self) -> None:
        """Two accounts at once, three turns each; the later turns wait for the first."""
        for number in range(3):
            for account in ("ann", "bob"):
                await self.send_message(account, "plain", number)
        await self.run_until_idle()

    async def without_session(self) -> None:
        """Generations without a session: one is answered, one cancelled, one fails."""
        for account in ("ann", "bob"):
            await self.send_message(account, "alone", is_sessionless=True)
        ticket = await self.send_message("ann", "alone cancelled", is_sessionless=True)
        await self.queue.cancel(ticket)
        self.evidence.cancelled[ticket.id] = await self.now_ms()
        for attempt, ending in zip(
            await self.claim("worker-1", count=2), get_args(Ending), strict=False
        ):
            await self.append_words(attempt, 0, 2)
            await self.end(attempt, appended=2, ending=ending)

    async def append_after_lost_lease(self) -> None:
        """A worker stalls past its lease and appends while another has taken over."""
        await self.send_message("ann", "late words")
        for first in await self.claim("worker-1"):
            for word in range(3):
                await self.append_words(first, word, word + 1)
            await self.expire_lease(first)
            for second in await self.claim("worker-2"):
                await self.append_words(second, 0, 2)
                await self.append_words(first, 3, 5)
                await self.end(second, appended=2)

    async def settle_after_lost_lease(self) -> None:
        """A worker stalls past its lease and settles while another has taken over."""
        await self.send_message("bob", "late end")
        for first in await self.claim("worker-1"):
            await self.append_words(first, 0, 2)
            await self.expire_lease(first)
            for second in await self.claim("worker-2"):
                await self.append_words(second, 0, 1)
                await self.end(first, appended=2)
                await self.end(second, appended=1)

    async def drain(self) -> None:
        """A worker releases its attempt in the middle of an answer, as on SIGTERM."""
        await self.send_message("ann", "drain")
        for first in await self.claim("worker-1"):
            await self.append_words(first, 0, 3)
            self.count_disturbance(first)
            await self.queue.release(first.claimed)
        await self.run_until_idle()

    async def failing_upstream(self) -> None:
        """An upstream fails in the middle of an answer."""
        await self.send_message("bob", "failing")
        for attempt in await self.claim("worker-1"):
            await self.append_words(attempt, 0, 2)
            await self.end(attempt, appended=2, ending="failed")

    async def cancel_with_dead_worker(self) -> None:
        """A client cancels what a dead worker holds."""
        ticket = await self.send_message("ann", "cancelled")
        for attempt in await self.claim("worker-1"):
            await self.append_words(attempt, 0, 2)
            await self.queue.cancel(ticket)
            self.evidence.cancelled[ticket.id] = await self.now_ms()
            await self.pass_time()
            await self.expire_lease(attempt)
        await self.run_until_idle()

    async def server_stall(self) -> None:
        """The server stalls for longer than a lease; then a reap comes before the heartbeat."""
        await self.send_message("bob", "stall")
        for attempt in await self.claim("worker-1"):
            await self.append_words(attempt, 0, 2)
            await self.move_lease_end_to_past(attempt)
            clocks = keys.CLOCKS(self.queue.root)
            await self.queue.redis.call(
                "HSET", clocks, "reaped", await self.now_ms() - _LONG_AGO_MS
            )
            await self.queue.reap(gap_ms=1_000)
            await self.queue.beat(attempt.claimed)
            await self.end(attempt, appended=2)

    async def run_until_idle(self) -> None:
        """Reap, claim and answer until nothing is left to claim."""
        for _ in range(_ROUNDS_MAX):
            await self.queue.reap()
            attempts = await self.claim("worker-3", count=8)
            for attempt in attempts:
                await self.append_words(attempt, 0, 2)
            for attempt in attempts:
                await self.end(attempt, appended=2)

    # What the front and the workers do

    async def send_message(
        self, account: str, name: str, number: int = 0, *, is_sessionless: bool = False
    ) -> Ticket:
        """Send a message into the session of that name, or without one, as the front does."""
        asked = question(account, f"{name} {number}")
        session = f"{account}-{name.replace(' ', '-')}"
        ticket = Ticket(account, session, session if is_sessionless else f"{session}-{number}")
        accepted_message = AcceptedMessage(account, session, ticket.id, asked)
        self.sent.append(accepted_message)
        answer = await self.queue.accept(
            account,
            session,
            is_new=number == 0,
            is_sessionless=is_sessionless,
            generation=ticket.id,
            content=asked,
            hold=_HOLD,
        )
        assert isinstance(answer, Accepted), answer
        self.evidence.accepted_messages.append(accepted_message)
        return ticket

    async def claim(self, worker: str, count: int = 1) -> list[Attempt]:
        """Claim what is ready and call the upstream for each."""
        claimed = await self.queue.claim(count, worker=worker, lease_ms=_LEASE_MS)
        await self.queue.reap()
        return [Attempt(one, await self._call_upstream(one)) for one in claimed]

    async def _call_upstream(self, claimed: Claimed) -> UpstreamCall:
        """Call the upstream with the completed questions of the session, as a worker does."""
        asked = decode_user(claimed.user_message).content
        (accepted_message,) = [
            one for one in self.evidence.accepted_messages if one.generation == claimed.id
        ]
        completed_questions = []
        for earlier in self.evidence.sessions()[accepted_message.session]:
            if earlier.generation == claimed.id:
                break
            ticket = Ticket(earlier.account, earlier.session, earlier.generation)
            if await self.queue.stage(ticket) == "completed":
                completed_questions.append(earlier.question)
        self.call_attempts.append((claimed.id, claimed.attempt))
        return self.evidence.note_upstream_call([*completed_questions, asked], _WORDS)

    async def append_words(self, attempt: Attempt, first: int, last: int) -> None:
        """Append the words `first` to `last` of the answer, and take a sample."""
        claimed = attempt.claimed
        text = "".join(attempt.words[first:last])
        ask = functions.AppendAsk(
            account=claimed.account,
            id=claimed.id,
            attempt=claimed.attempt,
            seq=self._next_seq(claimed),
            events=[events.encode(events.Delta(text))],
            text=text,
            stage="generating",
            progress=1,
        )
        self._seqs[claimed.id, claimed.attempt] += 1
        # An error of Redis is a failed attempt, as in a worker.
        with suppress(StoreError):
            await functions.append(self.queue.redis, self.queue.root, ask)
        await self.observe(claimed)

    def _next_seq(self, claimed: Claimed) -> int:
        """Return the next event's number; a later attempt's first one came with its claim."""
        completed_questions = self._seqs[claimed.id, claimed.attempt]
        return completed_questions + (1 if claimed.attempt == 1 else 2)

    async def end(self, attempt: Attempt, *, appended: int, ending: Ending = "completed") -> None:
        """Append the rest of the answer, unless it failed, and settle."""
        if ending == "completed":
            await self.append_words(attempt, appended, len(attempt.words))
            appended = len(attempt.words)
        claimed = attempt.claimed
        usage = Usage(cost=_COST if ending == "completed" else 0)
        event: events.Event = events.Completed(message=claimed.id, usage=usage, routing=None)
        if ending == "failed":
            event = events.Failed(CRASHED)
        ask = functions.SettleAsk(
            account=claimed.account,
            id=claimed.id,
            attempt=claimed.attempt,
            seq=self._next_seq(claimed),
            stage=ending,
            event=events.encode(event),
            cost=usage.cost,
            keep=KEEP,
        )
        message = AssistantMessage(
            status=ending,
            content="".join(attempt.words[:appended]),
            created=claimed.claimed_ms,
            usage=usage,
        )
        with suppress(StoreError):
            await functions.settle(
                self.queue.redis, self.queue.root, ask, encode_assistant(message)
            )
        await self.observe(claimed)
        await self.queue.beat(claimed)
        await self.observe(claimed)

    async def observe(self, claimed: Claimed) -> None:
        """Take a sample of a generation."""
        found = await self.queue.find(claimed.account, claimed.id)
        if found is not None:
            stage = msgspec.convert(found.record["stage"], Stage)
            text = "" if stage in ENDS else (found.body or b"").decode()
            if stage in ENDS and found.body is not None:
                content = decode_assistant(found.body).content
                self.evidence.shown[claimed.id] = ShownEnd(stage, content)
            attempt = int(found.record["attempt"])
            self.evidence.samples.append(Sample(claimed.id, stage, attempt, calls_in(text)))

    # Time

    async def expire_lease(self, attempt: Attempt) -> None:
        """Let a worker's lease lapse, and reap."""
        self.count_disturbance(attempt)
        await self.move_lease_end_to_past(attempt)
        await self.queue.reap()

    async def move_lease_end_to_past(self, attempt: Attempt) -> None:
        """Move the end of a lease into the past."""
        name = f"{attempt.claimed.account}:{attempt.claimed.id}"
        await self.queue.redis.call("ZADD", keys.LEASES(self.queue.root), "XX", 1, name)

    def count_disturbance(self, attempt: Attempt) -> None:
        """Note a fault of the holder, which explains another attempt."""
        if self.evidence.disturbed is not None:
            self.evidence.disturbed[attempt.claimed.id] += 1

    async def now_ms(self) -> int:
        """Return Redis' time."""
        seconds, micros = await self.queue.redis.call("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def pass_time(self) -> None:
        """Return once Redis' clock shows another millisecond."""
        began = await self.now_ms()
        while await self.now_ms() <= began:
            pass
