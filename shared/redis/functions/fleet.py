"""Workers and load: report a worker, list the live ones, load of a partition."""

from typing import NamedTuple

import msgspec

from shared.redis.client import Connection
from shared.redis.functions.contract import Ask, text_of
from shared.redis.functions.providers import Breaker, breaker_from
from shared.redis.library import invoke
from shared.wire.submission import Lane


class ReportWorkerAsk(Ask, frozen=True, kw_only=True):
    """A worker's report and the `models` that it serves; after `alive_ms` without one it is dead.

    Of its calls, `slots` as (provider, lane, call) and `probes` as (circuit, call) are running, and
    leased for `lease_ms`; `answered` counts those that succeeded, by circuit. `lengths` are of
    complete answers: model, number, bytes together. A model counts as served for `forget_ms` after
    its last report.
    """

    worker: str
    models: tuple[str, ...]
    alive_ms: int
    forget_ms: int
    lease_ms: int = 0
    slots: tuple[tuple[str, Lane, str], ...] = ()
    probes: tuple[tuple[str, str], ...] = ()
    answered: tuple[tuple[str, int], ...] = ()
    window_ms: int = 0
    lengths: tuple[tuple[str, int, int], ...] = ()


class ReportWorkerReply(NamedTuple):
    """What a report returns: how many workers live, and the models that any of them has keys of.

    `breakers` are those that are not closed, by circuit. `is_new`: the worker was not known to
    live. `throttles` are the circuits that lately refused calls because they take fewer; `lengths`
    are the bytes of an average answer by model, where known.
    """

    workers: int
    configured: frozenset[str]
    breakers: dict[str, Breaker]
    is_new: bool
    throttles: frozenset[str]
    lengths: dict[str, int]


async def report_worker(
    redis: Connection, root: str, ask: ReportWorkerAsk, worker_report: bytes
) -> ReportWorkerReply:
    """Write a worker's report, or remove it where it is empty."""
    living, served, breakers, is_new, throttles, lengths = await invoke(
        redis, "report_worker", root, ask, blob=worker_report
    )
    return ReportWorkerReply(
        int(living),
        frozenset(map(text_of, served)),
        {text_of(circuit): breaker_from(rest) for circuit, *rest in breakers},
        bool(is_new),
        frozenset(map(text_of, throttles)),
        {model: int(each) for model, each in zip(ask.models, lengths, strict=True) if each},
    )


class PartitionLoadAsk(Ask, frozen=True, kw_only=True):
    """No arguments."""


class PartitionLoadReply(msgspec.Struct, frozen=True, array_like=True):
    """A partition's counts, and its server's memory in bytes (`memory_max_bytes` 0: no bound)."""

    now_ms: int
    unfinished: int
    running: int
    ended: int
    used_bytes: int
    memory_max_bytes: int


async def partition_load(redis: Connection, root: str, ask: PartitionLoadAsk) -> PartitionLoadReply:
    """Return how much is unfinished, how much has ended, and how full the server is."""
    return PartitionLoadReply(*await invoke(redis, "partition_load", root, ask, effect="none"))


class ListWorkersAsk(Ask, frozen=True, kw_only=True):
    """After how long without a report a worker counts as dead."""

    alive_ms: int


async def list_workers(
    redis: Connection, root: str, ask: ListWorkersAsk
) -> tuple[list[str], list[bytes]]:
    """Return the models that are or were lately served, and the reports of live workers."""
    served, *worker_reports = await invoke(redis, "list_workers", root, ask, effect="none")
    return [text_of(model) for model in served], worker_reports
