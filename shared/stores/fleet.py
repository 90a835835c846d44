"""Workers' reports, and what the live workers can do together.

A worker writes its report, timed by Redis' clock, and counts as alive for three seconds. A model
counts as configured for a minute after the last report of a worker that has its key, and on and on
while no worker reports at all, so that a deploy makes no model disappear.
"""

from typing import Final, NamedTuple

import msgspec

from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.redis.functions import ListWorkersAsk, ReportWorkerAsk, ReportWorkerReply
from shared.settings import ModelSettings, ProviderSettings, RedisSettings
from shared.wire.fleet import WorkerReport, decode, encode
from shared.wire.submission import Lane

_ALIVE_MS: Final = 3_000
_FORGET_MS: Final = 60_000


class Fleet(NamedTuple):
    """What the live workers can do together; `configured` are the models whose keys they have.

    `cooling` are the circuits that they do not call for now (a provider's model under one
    credential). `without_listener` counts workers whose connection for pub/sub is down, which claim
    nothing; `running` counts all attempts, as last reported.
    """

    workers: int = 0
    slots: int = 0
    models: frozenset[str] = frozenset()
    configured: frozenset[str] = frozenset()
    cooling: frozenset[str] = frozenset()
    without_listener: int = 0
    running: int = 0

    def offers(self, model: ModelSettings, provider: ProviderSettings) -> bool:
        """Return whether a model is available at all: it needs no key, or a worker has it."""
        return provider.api_key_env is None or model.identifier in self.configured

    def may_take(self, model: ModelSettings, provider: ProviderSettings) -> bool:
        """Return whether a message may wait for a model; until a first worker reports, any may."""
        is_unknown = not self.workers and not self.configured
        return is_unknown or self.offers(model, provider)


class CallReport(NamedTuple):
    """A worker's report of its calls: leases on `slots` and `probes` to renew, calls `answered`.

    These are (provider, lane, call), (circuit, call), and (circuit, how many since the last
    report); `lengths` are (model, complete answers since the last report, their bytes).
    """

    slots: tuple[tuple[str, Lane, str], ...] = ()
    probes: tuple[tuple[str, str], ...] = ()
    answered: tuple[tuple[str, int], ...] = ()
    lease_ms: int = 0
    window_ms: int = 0
    lengths: tuple[tuple[str, int, int], ...] = ()


_EMPTY_CALL_REPORT: Final = CallReport()


async def report(
    redis: Connection,
    settings: RedisSettings,
    worker_report: WorkerReport,
    calls: CallReport = _EMPTY_CALL_REPORT,
) -> ReportWorkerReply:
    """Write a worker's report: its models and its calls."""
    ask = msgspec.structs.replace(_ask(worker_report.id, worker_report.models), **calls._asdict())
    root = keys.system_root(settings)
    return await functions.report_worker(redis, root, ask, encode(worker_report))


async def leave(redis: Connection, settings: RedisSettings, worker: str) -> None:
    """Remove the report of a worker that drains."""
    await functions.report_worker(redis, keys.system_root(settings), _ask(worker, ()), b"")


async def load(redis: Connection, settings: RedisSettings) -> Fleet:
    """Return what the workers that reported within the last three seconds can do."""
    ask = ListWorkersAsk(alive_ms=_ALIVE_MS)
    served, worker_reports = await functions.list_workers(redis, keys.system_root(settings), ask)
    alive = [decode(worker_report) for worker_report in worker_reports]
    models = frozenset(model for worker_report in alive for model in worker_report.models)
    return Fleet(
        workers=len(alive),
        slots=sum(worker_report.concurrency for worker_report in alive),
        models=models,
        # Workers of older versions name their models only in the report itself.
        configured=models.union(served),
        cooling=frozenset(circuit for worker_report in alive for circuit in worker_report.cooling),
        without_listener=sum(worker_report.is_deaf for worker_report in alive),
        running=sum(worker_report.running for worker_report in alive),
    )


async def models_without_parking(redis: Connection, settings: RedisSettings) -> frozenset[str]:
    """Return the models of live workers whose version knows no queues of parked turns."""
    ask = ListWorkersAsk(alive_ms=_ALIVE_MS)
    _, worker_reports = await functions.list_workers(redis, keys.system_root(settings), ask)
    alive = (decode(worker_report) for worker_report in worker_reports)
    return frozenset(
        model
        for worker_report in alive
        if not worker_report.knows_lines
        for model in worker_report.models
    )


def _ask(worker: str, models: tuple[str, ...]) -> ReportWorkerAsk:
    return ReportWorkerAsk(worker=worker, models=models, alive_ms=_ALIVE_MS, forget_ms=_FORGET_MS)
