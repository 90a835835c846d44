"""Walks until this many operations have been compared with the model; exit code 1 if one differs.

After each operation the reply and the credits of both accounts equal the model's, to a microcredit;
the ledger, the streams and every generation are compared every 25 operations and at the end of each
walk.
"""

import sys
import time
from typing import Final

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from shared.settings import RedisSettings
from tests.property.random_walk import RandomWalk
from tests.support import command_line
from tests.support.redis_server import Server

_WALKS_PER_ROUND: Final = 50
_STEPS_PER_WALK: Final = 100
_COMPARE_EVERY: Final = 25


def _walk_on(server: Server, first_seed: int, operations: int) -> None:
    """Walk one round a seed. Raises AssertionError with the steps that led to a difference."""

    class BoundWalk(RandomWalk):
        compare_every = _COMPARE_EVERY

    # A busy machine must not count as a difference.
    redis_settings = RedisSettings(url=server.url, connect_seconds=60.0, timeout_seconds=60.0)
    BoundWalk.server, BoundWalk.redis_settings = server, redis_settings
    began, reported, number = time.monotonic(), 0, first_seed
    while BoundWalk.operations < operations:
        run_state_machine_as_test(
            seed(number)(BoundWalk),
            settings=settings(
                max_examples=_WALKS_PER_ROUND,
                stateful_step_count=_STEPS_PER_WALK,
                phases=[Phase.generate],
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        number += 1
        if BoundWalk.operations - reported >= operations / 20 or BoundWalk.operations >= operations:
            reported = BoundWalk.operations
            seconds = time.monotonic() - began
            sys.stdout.write(
                f"{reported} operations, {seconds:.0f} s, seed {number - 1}: drift 0\n"
            )
            sys.stdout.flush()


def _main(first_seed: int, operations: int) -> None:
    server = Server()
    server.start()
    try:
        _walk_on(server, first_seed, operations)
    finally:
        server.stop()


if __name__ == "__main__":
    parser = command_line.parser("tests.property", __doc__)
    parser.add_argument("--operations", type=int, default=20_000, help="how many at least")
    parser.add_argument("--seed", type=int, default=1, help="seed of the first round")
    arguments = parser.parse_args()
    _main(arguments.seed, arguments.operations)
