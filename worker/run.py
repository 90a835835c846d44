"""The state of one attempt (`Run`), and what all attempts of a worker share (`Dependencies`).

Owns no behaviour. A step reads what earlier steps wrote into the `Run`, adds its own results, and
returns None to go on or an outcome to stop.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from shared.catalogue import Catalogue
from shared.clock import Clock
from shared.redis.client import Connection
from shared.redis.functions import Claimed
from shared.routing.search_estimate import SearchProvider
from shared.settings import ModelSettings, Settings
from shared.wire import conversation
from shared.wire.conversation import CallPart, OpaquePart
from shared.wire.message import Citation, Enhancement, FinishReason, Media, Usage, UserMessage
from shared.wire.routing import Routing
from shared.wire.submission import Submission
from worker.answer_lengths import AnswerLengths
from worker.batches.work import BatchWork
from worker.fetching.image_cache import ImageCache
from worker.fetching.url_fetcher import UrlFetcher
from worker.media_store import MediaStore
from worker.providers.contract import Image, Turn
from worker.providers.registry import Registry
from worker.resilience.circuit_breaker import CircuitBreaker
from worker.resilience.circuits import Caller
from worker.resilience.retry_policy import RetryState
from worker.rounds import Rounds
from worker.tools.registry import ToolRegistry
from worker.web_search.client import SearchClient, connect
from worker.writer import Writer


@dataclass(frozen=True, kw_only=True)
class Dependencies:
    """What all attempts of a worker share; after a reload, running attempts keep the old one.

    `configured` are the models for which any live worker has a key, by the last report.
    `durable_redis` is for writes that must be replicated before they count. `search_client` is None
    if no search service is configured, or only other workers have its key. `models_without_parking`
    are served by live workers of a version without parking; None while that is unknown.
    `has_deliveries` is set where an attempt's end is to be reported to a webhook.
    """

    settings: Settings
    redis: Connection
    durable_redis: Connection
    clock: Clock
    registry: Registry
    circuit_breaker: CircuitBreaker
    url_fetcher: UrlFetcher
    image_cache: ImageCache
    media_store: MediaStore
    batch_work: BatchWork
    configured: frozenset[str] = frozenset()
    models_without_parking: frozenset[str] | None = None
    search_client: SearchClient | None = None
    tools: ToolRegistry = field(default_factory=ToolRegistry)
    lengths: AnswerLengths = field(default_factory=AnswerLengths)
    has_deliveries: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def of(
        cls,
        settings: Settings,
        environment: Mapping[str, str],
        redis: Connection,
        durable_redis: Connection,
        clock: Clock,
    ) -> Self:
        """Build them from settings and an environment. Raises ConfigurationError."""
        registry = Registry(Catalogue.of(settings), environment)
        return cls(
            settings=settings,
            redis=redis,
            durable_redis=durable_redis,
            clock=clock,
            registry=registry,
            circuit_breaker=CircuitBreaker(settings, redis, clock, registry),
            url_fetcher=UrlFetcher(settings.egress, clock),
            image_cache=ImageCache(clock),
            media_store=MediaStore(settings, redis, clock),
            batch_work=BatchWork(redis, settings, clock),
            search_client=connect(settings.search, environment),
        )

    async def close(self) -> None:
        """Close the connections to all upstreams and to the search service."""
        await self.batch_work.close()
        await self.registry.close()
        if self.search_client is not None:
            await self.search_client.close()

    @property
    def catalogue(self) -> Catalogue:
        """The catalogue that the registry serves."""
        return self.registry.catalogue

    def offers(self, model: ModelSettings) -> bool:
        """Tell whether any worker of the fleet can serve a model."""
        return model.identifier in self.registry.served or model.identifier in self.configured


@dataclass(kw_only=True)
class Run:
    """The state of one attempt at a generation. `claimed_at` is monotonic, in seconds.

    `fallbacks` may answer if `model` fails; `calls` counts upstream calls of the present model
    turn, `earlier_calls` of which earlier attempts made. `rounds` have finished; the text of the
    present one begins at `text_start`. `searched_by` is who searches the web, if the caller asked
    for that: the same for every model of the route. `searches` counts the searches made. `images`
    are those of `image_places`; `parts` are what the present round has beside text, each with the
    characters of text before it. `finish_reason` is that of the last upstream call;
    `has_no_answer`: the model finished normally, but without an answer.
    """

    dependencies: Dependencies
    claimed: Claimed
    writer: Writer
    claimed_at: float
    submission: Submission = field(default=Submission(session=None))
    user: UserMessage = field(default=UserMessage(id="", generation="", content="", created=0))
    system_prompt: str | None = None
    history: list[Turn] = field(default_factory=list)
    history_tokens: int = 0
    is_history_whole: bool = True
    images: tuple[Image, ...] = ()
    model: ModelSettings | None = None
    fallbacks: tuple[ModelSettings, ...] = ()
    rounds: Rounds = field(default_factory=Rounds)
    text_start: int = 0
    calls: int = 0
    earlier_calls: int = 0
    has_waited: bool = False
    searched_by: SearchProvider | None = None
    searches: int = 0
    routing: Routing | None = None
    input_tokens: int = 0
    usage: Usage | None = None
    media: list[Media] = field(default_factory=list)
    citations: list[Citation] = field(default_factory=list)
    enhancement: Enhancement | None = None
    parts: list[tuple[int, CallPart | OpaquePart]] = field(default_factory=list)
    finish_reason: FinishReason = "stop"
    has_no_answer: bool = False

    @property
    def call_ids(self) -> frozenset[str]:
        """The ids of the calls of tools in the present round."""
        return frozenset(part.call_id for _, part in self.parts if isinstance(part, CallPart))

    @property
    def prompt(self) -> str:
        """The user's message as the model reads it: reworded, if it was."""
        reworded = self.enhancement.text if self.enhancement is not None else None
        return self.user.content if reworded is None else reworded

    @property
    def image_places(self) -> tuple[tuple[str, str], ...]:
        """The images to fetch: the field that names each, and its URL."""
        if self.submission.conversation is not None:
            return conversation.images(self.submission.conversation)
        urls = self.submission.features.media_urls
        return tuple((f"media_urls[{index}]", url) for index, url in enumerate(urls))

    @property
    def caller(self) -> Caller:
        """Who makes the upstream calls of this attempt."""
        return Caller(
            self.claimed.account,
            self.claimed.id,
            is_again=self.claimed.attempt > 1 or self.has_waited,
            passes_over=bool(self.fallbacks),
        )

    def retry_state(self, calls: int, waited_seconds: float = 0.0) -> RetryState:
        """Return the attempt's state for `retry_policy`, after `calls` calls of its model."""
        return RetryState(
            calls=calls,
            turn_calls=self.calls,
            deferrals=self.claimed.retries,
            left=self.seconds_left(),
            age=(self.now_ms() - self.claimed.accepted_ms) / 1000,
            waited_seconds=waited_seconds,
            has_shown=self.writer.has_shown(),
            has_fallbacks=bool(self.fallbacks),
            is_batch=self.claimed.lane == "batch",
        )

    def now_ms(self) -> int:
        """Return Redis' time, estimated: the time of the claim plus what has passed since."""
        passed = self.dependencies.clock.monotonic() - self.claimed_at
        return self.claimed.claimed_ms + int(passed * 1000)

    def seconds_left(self) -> float:
        """Return the seconds until the deadline."""
        return (self.claimed.deadline_ms - self.now_ms()) / 1000
