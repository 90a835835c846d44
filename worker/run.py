"""The value that the steps pass along, and the closed set of ways in which they end.

Owns no behaviour. A step reads what earlier steps left in the `Run`, adds its own, and returns None
to go on or an outcome to stop.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, Self

from shared.catalogue import Catalogue
from shared.clock import Clock
from shared.errors import Bar, Failure
from shared.redis.client import Connection
from shared.redis.functions import Claimed
from shared.routing.search import Way
from shared.settings import ModelSettings, Settings
from shared.wire.message import Citation, Enhancement, FinishReason, Media, Usage, UserMessage
from shared.wire.routing import Routing
from shared.wire.submission import Submission
from worker.circuits import Caller
from worker.fetch import Outside
from worker.gallery import Gallery
from worker.gate import Gate
from worker.lengths import Lengths
from worker.pictures import Pictures
from worker.providers.contract import ChatMessage, Image
from worker.providers.registry import Registry
from worker.search.line import SearchLine, connect
from worker.writer import Writer


class Finished(NamedTuple):
    """The answer is whole."""


class Failed(NamedTuple):
    """There will be no answer; the caller reads why and pays nothing."""

    failure: Failure


class Retry(NamedTuple):
    """Not now: wait in the queue for so many seconds, then any worker tries again.

    What waits for room, for somebody's probe or for another worker was not tried: that is no
    deferral. `code` tells what it is put off for. What is `parked` goes earlier, if one of these
    resources has room.
    """

    delay_seconds: float
    why: Literal["failed", "elsewhere"] | Bar = "failed"
    code: str = "DEFERRED"
    parked: tuple[str, ...] = ()

    @property
    def is_waiting(self) -> bool:
        """Whether only the deadline ends it."""
        return self.why in {"probing", "busy", "throttled", "elsewhere"}


class Released(NamedTuple):
    """This worker drains: back to the front of the line, as if never taken."""


class Cancelled(NamedTuple):
    """The caller wants it no more; what was made of it stays and is paid for."""


class Lost(NamedTuple):
    """Another attempt holds the generation, or it has ended: nothing of ours may be written."""


Outcome = Finished | Failed | Retry | Released | Cancelled | Lost


StopReason = Literal["cancel", "lost", "drain", "fault"]

INTERNAL: Final = Failure(
    message="Pollux failed to make the answer.",
    category="internal",
    code="INTERNAL",
    severity="fatal",
    retryable=True,
)


class Brake:
    """How an attempt is stopped from outside: the first pull decides, none at the end.

    It grips once the attempt can settle what a pull makes of it: a task that is cancelled before
    its first step never runs, and the generation would be nobody's.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[object] | None = None
        self._is_off = False
        self.why: StopReason | None = None

    def grip(self) -> None:
        """Hold the attempt that calls; raises CancelledError if a pull came before."""
        self._task = asyncio.current_task()
        if self.why is not None:
            raise asyncio.CancelledError

    def pull(self, why: StopReason) -> None:
        """Interrupt the attempt where it stands."""
        if self.why is None and not self._is_off:
            self.why = why
            if self._task is not None:
                self._task.cancel()

    def take_off(self) -> None:
        """Let what follows, the settlement, run undisturbed."""
        self._is_off = True

    def outcome(self) -> Outcome:
        """Return what an interrupted attempt comes to.

        Without a reason the worker is going; where nobody interrupted it at all, a step is at
        fault, and would be again.
        """
        match self.why:
            case "cancel":
                return Cancelled()
            case "lost":
                return Lost()
            case "fault":
                return Failed(INTERNAL)
            case "drain":
                return Released()
            case None:
                is_going = self._task is not None and self._task.cancelling() > 0
                return Released() if is_going else Failed(INTERNAL)


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What every run of a worker shares; one that has begun ends with what it began with.

    `configured` are the models that the whole fleet has keys of, as far as heard; `promise` carries
    what callers rely on. `search` is None where no service searches the web, or another worker has
    its key. `unlined` are the models served by live workers that know no lines of parked turns;
    None while that is unknown. `lengths` knows how long answers are.
    """

    settings: Settings
    redis: Connection
    promise: Connection
    clock: Clock
    registry: Registry
    gate: Gate
    outside: Outside
    pictures: Pictures
    gallery: Gallery
    configured: frozenset[str] = frozenset()
    unlined: frozenset[str] | None = None
    search: SearchLine | None = None
    lengths: Lengths = field(default_factory=Lengths)

    @classmethod
    def of(
        cls,
        settings: Settings,
        environment: Mapping[str, str],
        redis: Connection,
        promise: Connection,
        clock: Clock,
    ) -> Self:
        """Return the tools that settings and an environment make. Raises ConfigurationError."""
        registry = Registry(Catalogue.of(settings), environment)
        return cls(
            settings=settings,
            redis=redis,
            promise=promise,
            clock=clock,
            registry=registry,
            gate=Gate(settings, redis, clock, registry),
            outside=Outside(settings.egress, clock),
            pictures=Pictures(clock),
            gallery=Gallery(settings, redis, clock),
            search=connect(settings.search, environment),
        )

    async def close(self) -> None:
        """Close the connections to everybody upstream."""
        await self.registry.close()
        if self.search is not None:
            await self.search.close()

    @property
    def catalogue(self) -> Catalogue:
        """The catalogue that the registry serves."""
        return self.registry.catalogue

    def offers(self, model: ModelSettings) -> bool:
        """Tell whether somebody in the fleet can serve a model."""
        return model.identifier in self.registry.served or model.identifier in self.configured


@dataclass(kw_only=True)
class Run:
    """One attempt at a generation, as far as it has come. `claimed_at` is monotonic, in seconds.

    `others` may answer if `model` fails; `calls` counts those made of upstreams, also before.
    `search` is who searches the web, where that is asked for: the same for the whole route.
    `searches` are those that were made. `finish_reason` is that of the last upstream call;
    `has_no_answer`: its model ended it in order, but gave no answer.
    """

    tools: Tools
    claimed: Claimed
    writer: Writer
    claimed_at: float
    submission: Submission = field(default=Submission(session=""))
    user: UserMessage = field(default=UserMessage(id="", generation="", content="", created=0))
    system_prompt: str | None = None
    history: list[ChatMessage] = field(default_factory=list)
    history_tokens: int = 0
    is_history_whole: bool = True
    images: tuple[Image, ...] = ()
    model: ModelSettings | None = None
    others: tuple[ModelSettings, ...] = ()
    calls: int = 0
    search: Way | None = None
    searches: int = 0
    routing: Routing | None = None
    input_tokens: int = 0
    usage: Usage | None = None
    media: list[Media] = field(default_factory=list)
    citations: list[Citation] = field(default_factory=list)
    enhancement: Enhancement | None = None
    finish_reason: FinishReason = "stop"
    has_no_answer: bool = False

    @property
    def prompt(self) -> str:
        """What the model reads as the user's message: it, or what it was reworded to."""
        reworded = self.enhancement.text if self.enhancement is not None else None
        return self.user.content if reworded is None else reworded

    @property
    def caller(self) -> Caller:
        """Whose calls of upstreams these are."""
        return Caller(
            self.claimed.account,
            self.claimed.id,
            is_again=self.claimed.attempt > 1,
            passes_over=bool(self.others),
        )

    def now_ms(self) -> int:
        """Return Redis' time as well as is known here: the claim's, and what has passed since."""
        passed = self.tools.clock.monotonic() - self.claimed_at
        return self.claimed.claimed_ms + int(passed * 1000)

    def seconds_left(self) -> float:
        """Return how long the deadline leaves."""
        return (self.claimed.deadline_ms - self.now_ms()) / 1000
