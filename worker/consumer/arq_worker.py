"""The subclass of arq's Worker: the loops of the process, its signals, attempts and drain.

Owns the process: which loops run, how they survive a Redis outage, how the process ends. The only
file that knows arq's Worker. There are two paths, on purpose. Generations come from Pollux' own
lanes (`claims`) and run the registered function `generate` with arq's ctx and hooks, under a lease
and a fencing token. Chores come from arq's own queue, which is polled once a second. Refuses to
know what a generation is: `pipeline` does.
"""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from arq.cron import cron
from arq.worker import Worker, func
from typing_extensions import override

from shared import chore_queue, ids
from shared.catalogue import NO_MODELS, NO_MODELS_REMEDY
from shared.clock import Clock
from shared.errors import PolluxError, UnavailableError
from shared.redis import functions, keys, library, partitions, replicated, server_check
from shared.redis.client import Redis
from shared.redis.functions import Claimed
from shared.redis.server_watch import ServerWatch
from shared.settings import Settings
from shared.sighup import Sighup
from shared.stores import fleet
from shared.telemetry import logs
from shared.wire.fleet import WorkerReport
from shared.wire.submission import WIRE
from worker import pipeline
from worker.chores import batches, schedule, trim
from worker.consumer import reap_log
from worker.consumer.backlog import Backlog
from worker.consumer.claims import Claims
from worker.consumer.heartbeat import Heartbeat
from worker.consumer.listener import Listener
from worker.consumer.reload import CatalogueReload
from worker.consumer.slots import Slots
from worker.outcome import StopSignal
from worker.run import Dependencies
from worker.webhooks.deliverer import Deliverer

_CHORES_SECONDS: Final = 1.0
_REPORT_SECONDS: Final = 1.0
# The last worker of a large fleet must not wait for the dead ones' shares of reaping, nor so long
# that its next reap counts as the first after a gap.
_REAP_SECONDS_MAX: Final = 0.6
# Between two looks of the fleet at batches, and of one worker at most.
_BATCHES_SECONDS: Final = 2.0
_BATCHES_SECONDS_MAX: Final = 10.0
_BACKOFF_SECONDS: Final = (0.05, 2.0)
_HEALTH_SECONDS: Final = 5
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


async def generate(ctx: dict[str, Any], _id: str) -> None:
    """Make one attempt at a generation: the function that arq's hooks and `ctx` surround."""
    await pipeline.run(ctx["dependencies"], ctx["claimed"], ctx["stop_signal"])


def _raise_if_cancelled() -> None:
    """Raise if the task was cancelled: a library may have swallowed the CancelledError."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class PolluxWorker(Worker):
    """One worker process. Its loops run until a signal; each survives every Redis error."""

    def __init__(self, settings: Settings, environment: Mapping[str, str], clock: Clock) -> None:
        self.id = ids.new_id()
        self.settings = settings
        self.clock = clock
        self._root = keys.system_root(settings.redis)
        super().__init__(
            functions=[func(generate, name="generate")],
            cron_jobs=[
                cron(chore, name=f"{self._root}{name}", minute=minutes, second=seconds)
                for name, chore, minutes, seconds in schedule.CHORES
            ],
            queue_name=chore_queue.name(self._root),
            job_serializer=chore_queue.serialize,
            job_deserializer=chore_queue.deserialize,
            poll_delay=_CHORES_SECONDS,
            health_check_interval=_HEALTH_SECONDS,
            keep_result=0,
            handle_signals=False,
        )
        self.redis = Redis(settings.redis)
        self._watch = ServerWatch(self.redis, settings.redis)
        self._durable_redis = replicated.durable_redis(settings.redis, self.redis)
        self._dependencies = Dependencies.of(
            settings, environment, self.redis, self._durable_redis, clock
        )
        self._catalogue_reload = CatalogueReload(self.ctx, environment, lambda: set(self._attempts))
        self._listener = Listener(
            settings.redis, self.id, on_cancel=self._cancel, on_change=self._note_listener
        )
        self.slots = Slots(settings.worker, clock)
        self.backlog = Backlog(
            lambda: self.ctx["dependencies"],
            clock,
            self._free_slots,
            claim_now=lambda: self.claims.claim_now(),  # noqa: PLW0108  claims come after it
        )
        self.claims = Claims(
            settings,
            self.id,
            self.redis,
            self.slots,
            self._start,
            backlog=self.backlog,
        )
        self.deliverer = Deliverer(
            settings,
            self.redis,
            clock,
            self._dependencies.url_fetcher,
            fleet_size=lambda: self._fleet_size,
            has_more=self._dependencies.has_deliveries,
        )
        self._attempts: set[asyncio.Task[object]] = set()
        self._draining = asyncio.Event()
        self._is_reported = False
        self._fleet_size = 1
        self._has_missed_worker = False
        self._heartbeat: Heartbeat | None = None

    # -- the process -------------------------------------------------------------------------------

    @override
    async def main(self) -> None:
        """Run until `begin_drain`, then drain. Raises PolluxError if Redis is unfit at start-up."""
        await self.redis.connect()
        self._watch.holds = await server_check.check(self.redis, self.settings.redis)
        await library.load(self.redis)
        await server_check.check_commands(self.redis, self.settings.redis)
        await partitions.register_count(self.redis, self.settings.redis, may_raise=True)
        await trim.mark_used(self.redis, self.settings.redis, self.clock.now_ms())
        await self._listener.connect()
        if any(model.makes_media for model in self._dependencies.registry.models):
            await self._dependencies.media_store.open()
        self.ctx["dependencies"] = self._dependencies
        if self.on_startup:
            await self.on_startup(self.ctx)
        for number in _SIGNALS:
            self.loop.add_signal_handler(number, self.begin_drain)
        self.loop.add_signal_handler(
            signal.SIGHUP, Sighup(self._catalogue_reload.reload).reload_or_end
        )
        heartbeat = self._heartbeat = Heartbeat(
            self.settings, self.clock, self.slots.held, self.slots.stop, self.id
        )
        heartbeat.start()
        loops = [
            asyncio.create_task(self._repeat(loop, pause_seconds))
            for loop, pause_seconds in (
                (self._reap, self._reap_pause_seconds),
                (self._report, lambda: _REPORT_SECONDS),
                (self._do_chores, lambda: _CHORES_SECONDS),
                (self._look_after_batches, self._batches_pause_seconds),
                (self._watch.inspect, self._watch.pause_seconds),
                (self._take_permits, lambda: 0.0),
                (self._deliver, lambda: 0.0),
            )
        ]
        if not self._dependencies.catalogue.models:
            logs.logger().warning(NO_MODELS, remedy=NO_MODELS_REMEDY)
        logs.logger().info(
            "worker ready", worker=self.id, models=sorted(self._dependencies.registry.served)
        )
        await self._repeat(self.claims.take_work, lambda: 0.0, until=self._draining)
        await self._drain()
        await heartbeat.stop()
        for task in loops:
            task.cancel()
        await asyncio.gather(*loops, return_exceptions=True)

    def begin_drain(self) -> None:
        """Stop claiming, as on SIGTERM."""
        self._draining.set()
        self.claims.end()

    @override
    async def close(self) -> None:
        """Cancel and close everything. Leases of running attempts lapse; arq retries its chores."""
        await self._call_hook(self.on_shutdown, self.ctx)
        under_way = [*self._attempts, *self.tasks.values()]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self.deliverer.close()
        if self._is_reported:
            await self._leave_fleet()
        await self.claims.close()
        for connection in (self._listener, self._durable_redis, self.redis):
            await connection.close()
        await self._catalogue_reload.close()
        dependencies: Dependencies = self.ctx.get("dependencies", self._dependencies)
        await dependencies.close()
        if self._pool is not None:
            await self._pool.aclose(close_connection_pool=True)
            self._pool = None
        for number in (*_SIGNALS, signal.SIGHUP):
            self.loop.remove_signal_handler(number)

    async def _leave_fleet(self) -> None:
        try:
            await fleet.leave(self.redis, self.settings.redis, self.id)
        except PolluxError as error:
            logs.logger().warning("leaving unannounced", error=error.message)

    async def _repeat(
        self,
        work: Callable[[], Awaitable[None]],
        pause_seconds: Callable[[], float],
        *,
        until: asyncio.Event | None = None,
    ) -> None:
        """Repeat `work` until `until` is set, or for ever; an error delays the next run only."""
        low, high = _BACKOFF_SECONDS
        backoff = low
        while until is None or not until.is_set():
            _raise_if_cancelled()
            try:
                await work()
                _raise_if_cancelled()
                backoff = low
                await self.clock.sleep(pause_seconds())
            except UnavailableError as error:
                logs.logger().warning("waiting for Redis", work=work.__name__, error=error.message)
                await self.clock.sleep(random.uniform(0, backoff))  # noqa: S311  jitter
                backoff = min(backoff * 2, high)
            except Exception:
                logs.logger().exception("a loop of the worker failed", work=work.__name__)
                await self.clock.sleep(high)

    async def _drain(self) -> None:
        """Let attempts end within the grace time, then return the rest to the queue."""
        logs.logger().info("draining", running=len(self.slots))
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=self.settings.worker.grace_seconds)
        for stop_signal in self.slots.stop_signals():
            stop_signal.trigger("drain")
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=self.settings.worker.lease_seconds)
        await self.deliverer.drain(self.settings.worker.lease_seconds)
        if self._attempts:
            logs.logger().error("attempts are left to their leases", count=len(self._attempts))

    # -- generations -------------------------------------------------------------------------------

    def _start(self, claimed: Claimed) -> None:
        stop_signal = self.slots.take(claimed)
        task: asyncio.Task[object] = asyncio.create_task(self._attempt(claimed, stop_signal))
        self._attempts.add(task)
        task.add_done_callback(self._attempts.discard)

    async def _attempt(self, claimed: Claimed, stop_signal: StopSignal) -> None:
        """Run one attempt between arq's hooks; no exception leaves this method."""
        ctx = self.ctx | {
            "job_id": claimed.id,
            "job_try": claimed.attempt,
            "score": claimed.accepted_ms,
            "claimed": claimed,
            "stop_signal": stop_signal,
        }
        with logs.bound(generation=claimed.id, account=claimed.account, attempt=claimed.attempt):
            try:
                await self._call_hook(self.on_job_start, ctx)
                await self.functions["generate"].coroutine(ctx, claimed.id)
                await self._call_hook(self.on_job_end, ctx)
                self.jobs_complete += 1
            except Exception:
                logs.logger().exception("an attempt could not be settled; its lease will lapse")
                self.jobs_failed += 1
            finally:
                self.slots.leave(claimed)
                if claimed.lane == "batch":
                    self.slots.pace.measure()
                self.backlog.note_ended(claimed)
                await self._use_free_slot(claimed)
            await self._call_hook(self.after_job_end, ctx)

    async def _use_free_slot(self, freed_by: Claimed) -> None:
        try:
            await self.claims.use_free_slot(freed_by)
        except UnavailableError as error:
            logs.logger().warning("waiting for Redis", work="a claim", error=error.message)
        except PolluxError:
            logs.logger().exception("a claim failed")

    async def _call_hook(
        self, hook: Callable[[dict[str, Any]], Awaitable[Any]] | None, ctx: dict[str, Any]
    ) -> None:
        """Call one of arq's hooks; an error in it is logged and harms no generation."""
        try:
            if hook is not None:
                await hook(ctx)
        except Exception:
            logs.logger().exception("a hook raised")

    # -- reaping, reports, chores, cancels ---------------------------------------------------------

    async def _reap(self) -> None:
        """Reap every partition: expired leases, deadlines, delayed turns that are due."""
        ask = functions.ReapAsk.of(self.settings, self.backlog.closed_resources())
        self._has_missed_worker = False
        for partition in range(self.settings.redis.partitions):
            with self.claims.partition_guard("reap", partition):
                await self._reap_one(partition, ask)

    async def _reap_one(self, partition: int, ask: functions.ReapAsk) -> None:
        root = keys.partition_root(self.settings.redis, partition)
        reaped = await functions.reap(self.redis, root, ask)
        self.backlog.note_parked(partition, reaped.parked_queues)
        self.claims.note_ready(reaped.ready)
        reap_log.log_reaped(reaped)
        self._has_missed_worker = self._has_missed_worker or bool(reaped.missed)
        for worker in reaped.dead:
            await fleet.leave(self.redis, self.settings.redis, worker)

    def _free_slots(self) -> int:
        """Return how many turns may be claimed now."""
        return 0 if self._draining.is_set() or self._listener.is_lost else self.slots.free

    async def _take_permits(self) -> None:
        """Take permits for parked turns as soon as there is room, then wait for the next poll."""
        await self.backlog.take_permits()
        await self.backlog.until_next_poll()

    async def _deliver(self) -> None:
        """Send the deliveries that are due, then wait for the next; none while draining."""
        if self._draining.is_set():
            await asyncio.Event().wait()
        await self.deliverer.deliver()
        await self.deliverer.until_next()

    def _reap_pause_seconds(self) -> float:
        """Share the reaping: the fleet as a whole reaps equally often, however many workers live.

        Example: one worker with `reap_seconds` 0.08 reaps every 0.08 s; of five each every 0.4 s. A
        worker that noticed a missing one reaps again by itself, once the absence can be confirmed.
        """
        if self._has_missed_worker:
            return functions.ABSENT_MS / 1000
        pause_seconds = self.settings.worker.reap_seconds * self._fleet_size
        return min(pause_seconds, _REAP_SECONDS_MAX) * random.uniform(0.5, 1.5)  # noqa: S311  jitter

    async def _report(self) -> None:
        dependencies: Dependencies = self.ctx["dependencies"]
        was_reported, self._is_reported = self._is_reported, True
        worker_report = WorkerReport(
            id=self.id,
            concurrency=self.settings.worker.concurrency,
            running=len(self.slots),
            models=tuple(sorted(dependencies.registry.served)),
            wire=WIRE,
            made_ms=self.clock.now_ms(),
            cooling=dependencies.circuit_breaker.open_circuits(),
            knows_lines=True,
            is_deaf=self._listener.is_lost,
        )
        calls = dependencies.circuit_breaker.take_report()._replace(
            lengths=dependencies.lengths.take_report()
        )
        fleet_state = await fleet.report(self.redis, self.settings.redis, worker_report, calls)
        if fleet_state.is_new and was_reported:
            # Another worker declared it dead, or Redis was emptied: nothing else would show that.
            logs.logger().warning("this worker was forgotten", worker=self.id)
        dependencies.circuit_breaker.update(
            fleet_state.breakers, fleet_state.throttles, fleet_state.workers
        )
        dependencies.lengths.update(fleet_state.lengths)
        self._fleet_size = max(1, fleet_state.workers)
        models_without_parking = None
        if fleet_state.configured - dependencies.registry.served:
            models_without_parking = await fleet.models_without_parking(
                self.redis, self.settings.redis
            )
        has_changed = (fleet_state.configured, models_without_parking) != (
            dependencies.configured,
            dependencies.models_without_parking,
        )
        # Not `dependencies`: a reload may have replaced them meanwhile.
        self.ctx["dependencies"] = replace(
            self.ctx["dependencies"],
            configured=fleet_state.configured,
            models_without_parking=models_without_parking,
        )
        if has_changed:
            # A claim that blocks for a wakeup would still use the old state.
            self.claims.claim_now()

    async def _do_chores(self) -> None:
        """Poll arq's own queue once, as arq does."""
        try:
            if self._pool is None:
                self._pool = chore_queue.pool(self.settings.redis)
                self.ctx["redis"] = self._pool
            await self._poll_iteration()
        except chore_queue.QUEUE_ERRORS as error:
            if self._pool is not None:
                # Its connections may lead to a server that is no longer the master. One that cannot
                # be closed in time is part of the same outage.
                with suppress(*chore_queue.QUEUE_ERRORS):
                    await self._pool.connection_pool.disconnect(inuse_connections=False)
            raise UnavailableError(str(error)) from None

    async def _look_after_batches(self) -> None:
        """Do what is due for batches; no job of arq, which would cost far more than the look."""
        dependencies: Dependencies = self.ctx["dependencies"]
        [seconds, _] = await self.redis.call("TIME")
        now_ms = int(seconds) * 1000
        await batches.look_after(self.redis, self.settings.redis, dependencies.batch_work, now_ms)

    def _batches_pause_seconds(self) -> float:
        pause_seconds = min(_BATCHES_SECONDS * self._fleet_size, _BATCHES_SECONDS_MAX)
        return pause_seconds * random.uniform(0.5, 1.5)  # noqa: S311  jitter

    def _note_listener(self) -> None:
        """Claim nothing while the listener is lost, and announce the loss with the heartbeat."""
        is_listener_lost = self._listener.is_lost
        self.claims.note_listener(is_listener_lost=is_listener_lost)
        if self._heartbeat is not None:
            self._heartbeat.note_listener(is_listener_lost=is_listener_lost)

    def _cancel(self, account: str, generation: str) -> None:
        """Stop the attempts at a generation that its caller cancelled."""
        for stop_signal in self.slots.stop_signals_of(account, generation):
            stop_signal.trigger("cancel")
