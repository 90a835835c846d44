"""Walks until this many operations have been compared with the model; exit code 1 if one differs.

After each operation the reply and the credits of both accounts equal the model's, to a microcredit;
the ledger, the streams and every generation are compared every 25 operations and at the end of each
walk. With `--batches`, the walk is over batches, and all adds up after each operation. Each process
walks its share of the operations on a server and seeds of its own.
"""

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Final

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from shared.settings import RedisSettings
from tests.property.batch_walk import BatchWalk
from tests.property.random_walk import RandomWalk
from tests.support import command_line
from tests.support.redis_server import Server

_WALKS_PER_ROUND: Final = 50
_STEPS_PER_WALK: Final = 100
_COMPARE_EVERY: Final = 25


def _walk(seeds: range, operations: int, *, is_of_batches: bool) -> int:
    """Walk on a new server; return how many operations were compared."""
    with Server() as server:
        return _walk_on(server, seeds, operations, is_of_batches=is_of_batches)


def _walk_on(server: Server, seeds: range, operations: int, *, is_of_batches: bool) -> int:
    """Walk one round a seed. Raises AssertionError with the steps that led to a difference."""

    class BoundWalk(RandomWalk):
        compare_every = _COMPARE_EVERY

    class BoundBatchWalk(BatchWalk):
        pass

    walk = BoundBatchWalk if is_of_batches else BoundWalk
    # A busy machine must not count as a difference.
    redis_settings = RedisSettings(url=server.url, connect_seconds=60.0, timeout_seconds=60.0)
    walk.server, walk.redis_settings = server, redis_settings
    began, reported = time.monotonic(), 0
    for number in seeds:
        run_state_machine_as_test(
            seed(number)(walk),
            settings=settings(
                max_examples=_WALKS_PER_ROUND,
                stateful_step_count=_STEPS_PER_WALK,
                phases=[Phase.generate],
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        is_done = walk.operations >= operations
        if walk.operations - reported >= operations / 20 or is_done:
            reported = walk.operations
            seconds = time.monotonic() - began
            sys.stdout.write(f"{reported} operations, {seconds:.0f} s, seed {number}: drift 0\n")
            sys.stdout.flush()
        if is_done:
            break
    return walk.operations


def _main(first_seed: int, operations: int, processes: int, *, is_of_batches: bool) -> None:
    share = -(-operations // processes)
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        # A share takes fewer rounds than it has operations.
        walks = [
            pool.submit(
                _walk,
                range(first, first + processes * share, processes),
                share,
                is_of_batches=is_of_batches,
            )
            for first in range(first_seed, first_seed + processes)
        ]
        compared = sum(walk.result() for walk in as_completed(walks))
    sys.stdout.write(f"{compared} operations in all: drift 0\n")


if __name__ == "__main__":
    parser = command_line.parser("tests.property", __doc__)
    parser.add_argument("--operations", type=int, default=20_000, help="how many at least")
    parser.add_argument("--seed", type=int, default=1, help="seed of the first round")
    parser.add_argument("--processes", type=int, default=2, help="how many walk at a time")
    parser.add_argument("--batches", action="store_true", help="walk over batches")
    arguments = parser.parse_args()
    _main(
        arguments.seed,
        arguments.operations,
        arguments.processes,
        is_of_batches=arguments.batches,
    )
