"""Connects to Redis, checks the server, and wires the parts of every room into State."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

from api.accept.accept import Submissions
from api.accept.load_shedding import LoadMonitor
from api.accept.rejections import Rejections
from api.batch_tasks import BatchTasks
from api.batches.chunks import Store
from api.batches.uploads import Uploads
from api.follow.ring import Rings
from api.follow.stream import Streams
from api.follow.subscriber import Subscriber
from api.follow.wait import Waits
from api.guards.identify import Identities
from api.guards.inflight_bodies import InflightBodies
from api.guards.large_pages import LargePages
from api.guards.open_waits import OpenWaits
from api.guards.rate_limits import RateLimits, allowances
from api.guards.revocations import Revocations
from api.live_fleet import LiveFleet
from api.polling.batch_item import BatchItems
from api.polling.eta import ModelDurations
from api.polling.hints import Hints
from api.polling.overdue import CurrentGenerations
from api.state import State
from shared.catalogue import NO_MODELS, NO_MODELS_REMEDY, Catalogue, CatalogueHolder
from shared.clock import Clock
from shared.errors import PolluxError
from shared.media import url_signing as media_url_signing
from shared.media.files import MediaFiles
from shared.media.url_signing import UrlSigner
from shared.redis import keys, library, partitions, replicated, server_check
from shared.redis.client import Redis
from shared.redis.replicated import ReplicatedConnection
from shared.redis.server_watch import ServerWatch
from shared.settings import Settings
from shared.stores.accounts import Accounts
from shared.stores.batches import BatchResults
from shared.telemetry import logs


@dataclass(kw_only=True, frozen=True)
class _Foundation:
    """What all rooms stand on: settings, time, connections, accounts and the catalogue."""

    settings: Settings
    environment: Mapping[str, str]
    clock: Clock
    redis: Redis
    durable_redis: Redis | ReplicatedConnection
    subscriber: Subscriber
    accounts: Accounts
    revocations: Revocations
    batch_results: BatchResults
    batch_tasks: BatchTasks
    catalogue_holder: CatalogueHolder


@asynccontextmanager
async def connected_state(
    settings: Settings, environment: Mapping[str, str], clock: Clock
) -> AsyncIterator[State]:
    """Connect, check the server, yield the state, and close everything at the end."""
    foundation = _foundation(settings, environment, clock)
    redis, subscriber, revocations = (
        foundation.redis,
        foundation.subscriber,
        foundation.revocations,
    )
    tasks: list[asyncio.Task[None]] = []
    subscriptions = ExitStack()
    try:
        await redis.connect()
        holds = await server_check.check(redis, settings.redis)
        await library.load(redis)
        await server_check.check_commands(redis, settings.redis)
        await partitions.register_count(redis, settings.redis, may_raise=True)
        server_watch = ServerWatch(redis, settings.redis, holds)
        tasks.append(asyncio.create_task(_check_redis_periodically(server_watch, clock)))
        tasks.append(asyncio.create_task(revocations.run()))
        channel = keys.revocations_channel(keys.system_root(settings.redis))
        subscriptions.enter_context(subscriber.listen(channel, revocations.on_message))
        secret = await media_url_signing.secret(redis, settings.redis)
        url_signer = UrlSigner(secret, clock, settings.media.url_seconds)
        if not foundation.catalogue_holder.catalogue.models:
            logs.logger().warning(NO_MODELS, remedy=NO_MODELS_REMEDY)
        logs.logger().info("front ready", durability=settings.redis.durability, holds=holds)
        yield _wire(foundation, server_watch, url_signer)
    finally:
        for task in tasks:
            task.cancel()
        subscriptions.close()
        await foundation.batch_tasks.close()
        await subscriber.close()
        await foundation.durable_redis.close()
        await redis.close()


async def _check_redis_periodically(server_watch: ServerWatch, clock: Clock) -> None:
    """Inspect the server's configuration from time to time; while Redis is away, log that."""
    while True:
        await clock.sleep(server_watch.pause_seconds())
        try:
            await server_watch.inspect()
        except PolluxError as error:
            logs.logger().warning("Redis could not be inspected", error=error.message)


def _foundation(settings: Settings, environment: Mapping[str, str], clock: Clock) -> _Foundation:
    redis = Redis(settings.redis)
    pepper = environment.get(settings.auth.pepper_env, "").encode()
    accounts = Accounts(redis, settings.redis, pepper, clock)
    return _Foundation(
        settings=settings,
        environment=environment,
        clock=clock,
        redis=redis,
        durable_redis=replicated.durable_redis(settings.redis, redis),
        subscriber=Subscriber(settings.redis),
        accounts=accounts,
        revocations=Revocations(accounts, clock),
        batch_results=BatchResults(redis),
        batch_tasks=BatchTasks(redis, settings, clock),
        catalogue_holder=CatalogueHolder(Catalogue.of(settings)),
    )


def _wire(foundation: _Foundation, server_watch: ServerWatch, url_signer: UrlSigner) -> State:
    """Return the state: each room gets the parts that it needs."""
    settings, clock, redis = foundation.settings, foundation.clock, foundation.redis
    catalogue_holder = foundation.catalogue_holder
    rate_limits = RateLimits(settings, clock)
    open_waits = OpenWaits(allowances(settings), settings.api.wait_seconds_max, clock)
    live_fleet = LiveFleet(redis, settings.redis, catalogue_holder, clock)
    model_durations = ModelDurations(redis, catalogue_holder, clock)
    load_monitor = LoadMonitor(redis, settings.redis, clock)
    rejections = Rejections(settings.limits, load_monitor, model_durations, rate_limits)
    batch_items = BatchItems(redis, foundation.batch_results, clock)
    generations = CurrentGenerations(redis, settings, live_fleet, batch_items)
    submissions = Submissions(
        settings=settings,
        redis=redis,
        durable_redis=foundation.durable_redis,
        clock=clock,
        catalogue_holder=catalogue_holder,
        live_fleet=live_fleet,
        model_durations=model_durations,
        load_monitor=load_monitor,
        rate_limits=rate_limits,
        rejections=rejections,
    )
    return State(
        settings=settings,
        environment=foundation.environment,
        catalogue_holder=catalogue_holder,
        clock=clock,
        redis=redis,
        server_watch=server_watch,
        accounts=foundation.accounts,
        identities=Identities(foundation.accounts, clock),
        revocations=foundation.revocations,
        inflight_bodies=InflightBodies(settings.api),
        rate_limits=rate_limits,
        open_waits=open_waits,
        large_pages=LargePages(),
        live_fleet=live_fleet,
        rejections=rejections,
        submissions=submissions,
        uploads=Uploads(settings, _store(foundation, rejections), submissions, live_fleet),
        hints=Hints(model_durations, live_fleet, settings.retention.generation_seconds),
        generations=generations,
        batch_results=foundation.batch_results,
        batch_tasks=foundation.batch_tasks,
        subscriber=foundation.subscriber,
        streams=Streams(
            redis=redis,
            subscriber=foundation.subscriber,
            rings=Rings(redis, foundation.subscriber, clock, url_signer.sign_media),
            generations=generations,
            live_fleet=live_fleet,
            open_waits=open_waits,
            revocations=foundation.revocations,
            url_signer=url_signer,
            ping_seconds=settings.api.ping_seconds,
        ),
        waits=Waits(generations, foundation.subscriber, foundation.revocations, clock),
        files=MediaFiles(settings.media.folder),
        url_signer=url_signer,
    )


def _store(foundation: _Foundation, rejections: Rejections) -> Store:
    """Return what storing a batch needs."""
    return Store(foundation.redis, foundation.durable_redis, foundation.clock, rejections)
