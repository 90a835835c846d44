"""The live workers: who reports, what they serve, how much room there is.

A worker writes its own report, by Redis' clock; it is among the living for three seconds. What it
serves, it has the keys of: that counts for a minute of others' reports, and for as long as nobody
reports at all, so that a deploy makes no model vanish.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.redis.functions import Breaker, ListWorkersAsk, ReportWorkerAsk
from shared.settings import ModelSettings, ProviderSettings, RedisSettings
from shared.wire.fleet import WorkerReport, decode, encode
from shared.wire.submission import Lane

_ALIVE_MS: Final = 3_000
_FORGET_MS: Final = 60_000


class Fleet(NamedTuple):
    """What the live workers can do together; `configured` are the models they have keys of.

    `cooling` are the circuits that they spare: a provider's model under one credential. `deaf`
    counts those whose listener is away, who claim nothing; `running` are all attempts, as lately
    reported.
    """

    workers: int = 0
    slots: int = 0
    models: frozenset[str] = frozenset()
    configured: frozenset[str] = frozenset()
    cooling: frozenset[str] = frozenset()
    without_listener: int = 0
    running: int = 0

    def offers(self, model: ModelSettings, provider: ProviderSettings) -> bool:
        """Return whether a model is to be had at all: a worker has its key, or it needs none."""
        return provider.api_key_env is None or model.identifier in self.configured

    def may_take(self, model: ModelSettings, provider: ProviderSettings) -> bool:
        """Return whether a message may wait for a model: until a worker came nobody knows keys."""
        is_unknown = not self.workers and not self.configured
        return is_unknown or self.offers(model, provider)


class ReportReply(NamedTuple):
    """What a worker hears in return for its report.

    How many live, what all have keys of, which breakers are not closed, by circuit, and which
    providers are throttled; `is_new` when it was not known to live. `lengths` are the bytes of an
    average answer, by model, where that is known.
    """

    workers: int
    configured: frozenset[str]
    breakers: dict[str, Breaker]
    is_new: bool
    throttles: frozenset[str]
    lengths: Mapping[str, int] = MappingProxyType({})


class CallReport(NamedTuple):
    """What a worker's gate tells: leases on `slots` and `probes` to keep, and calls `answered`.

    They are (provider, lane, call), (circuit, call), and (circuit, how many since the last report);
    `lengths` are (model, whole answers since the last report, their bytes).
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
) -> ReportReply:
    """Write a worker's pulse, the models it serves, and what its gate tells."""
    ask = msgspec.structs.replace(_ask(worker_report.id, worker_report.models), **calls._asdict())
    reported = await functions.report_worker(
        redis, keys.system_root(settings), ask, encode(worker_report)
    )
    configured = frozenset(reported.served)
    return ReportReply(
        reported.living,
        configured,
        reported.breakers,
        reported.is_new,
        reported.throttles,
        reported.lengths,
    )


async def leave(redis: Connection, settings: RedisSettings, worker: str) -> None:
    """Take a worker's pulse back, as it drains."""
    await functions.report_worker(redis, keys.system_root(settings), _ask(worker, ()), b"")


async def view(redis: Connection, settings: RedisSettings) -> Fleet:
    """Return what the workers that reported within the last three seconds can do."""
    ask = ListWorkersAsk(alive_ms=_ALIVE_MS)
    served, worker_reports = await functions.list_workers(redis, keys.system_root(settings), ask)
    alive = [decode(worker_report) for worker_report in worker_reports]
    models = frozenset(model for worker_report in alive for model in worker_report.models)
    return Fleet(
        workers=len(alive),
        slots=sum(worker_report.concurrency for worker_report in alive),
        models=models,
        # Workers of an older text tell what they serve in their pulse only.
        configured=models.union(served),
        cooling=frozenset(circuit for worker_report in alive for circuit in worker_report.cooling),
        without_listener=sum(worker_report.is_deaf for worker_report in alive),
        running=sum(worker_report.running for worker_report in alive),
    )


async def models_without_parking(redis: Connection, settings: RedisSettings) -> frozenset[str]:
    """Return the models that live workers serve which know no lines of parked turns."""
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
