"""Workers and load: a worker's report, who lives, how busy a partition is."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from shared.redis.client import Connection
from shared.redis.functions.contract import Ask, text_of
from shared.redis.functions.providers import Breaker, breaker_from
from shared.redis.library import invoke
from shared.wire.submission import Lane


class ReportWorkerAsk(Ask, frozen=True, kw_only=True):
    """A worker's word: `models` that it serves. After `alive_ms` without one it counts as dead.

    Of its calls: `slots` as (provider, lane, call) and `probes` as (circuit, call) are under way
    and leased for `lease_ms`; `answered` counts those that were, by circuit. `lengths` are of whole
    answers: model, how many, and their bytes together.
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
    """How many workers live, the models that are or were lately served, the breakers not closed.

    `is_new` when the one who reports was not known to live. `throttles` are the circuits
    that have refused calls lately because they take fewer; `lengths` are the bytes of an average
    answer, by model, where that is known.
    """

    living: int
    served: list[str]
    breakers: dict[str, "Breaker"]
    is_new: bool
    throttles: frozenset[str] = frozenset()
    lengths: Mapping[str, int] = MappingProxyType({})


async def report_worker(
    redis: Connection, root: str, ask: ReportWorkerAsk, worker_report: bytes
) -> ReportWorkerReply:
    """Write a worker's pulse, or take it back if it is empty."""
    living, served, breakers, is_new, throttles, lengths = await invoke(
        redis, "report_worker", root, ask, blob=worker_report
    )
    return ReportWorkerReply(
        int(living),
        [text_of(model) for model in served],
        {text_of(circuit): breaker_from(rest) for circuit, *rest in breakers},
        bool(is_new),
        frozenset(map(text_of, throttles)),
        {model: int(each) for model, each in zip(ask.models, lengths, strict=True) if each},
    )


class PartitionLoadAsk(Ask, frozen=True, kw_only=True):
    """Nothing is asked."""


class PartitionLoadReply(msgspec.Struct, frozen=True, array_like=True):
    """A partition's counts, and its server's memory in bytes: `most_bytes` is 0 for no bound."""

    now_ms: int
    unfinished: int
    running: int
    ended: int
    used_bytes: int
    memory_max_bytes: int


async def partition_load(redis: Connection, root: str, ask: PartitionLoadAsk) -> PartitionLoadReply:
    """Return how much waits, how much has ended, and how full the server is."""
    return PartitionLoadReply(*await invoke(redis, "partition_load", root, ask, effect="none"))


class ListWorkersAsk(Ask, frozen=True, kw_only=True):
    """After how long a silence a worker is not among the living."""

    alive_ms: int


async def list_workers(
    redis: Connection, root: str, ask: ListWorkersAsk
) -> tuple[list[str], list[bytes]]:
    """Return the models that are or were lately served, and the pulses of those who live."""
    served, *worker_reports = await invoke(redis, "list_workers", root, ask, effect="none")
    return [text_of(model) for model in served], worker_reports
