"""An error in one partition: the others are still worked on, and it is logged once."""

import pytest
import structlog

from shared.errors import StoreError, UnavailableError
from worker.partition_guard import PartitionGuard


def _go_over(partition_guard: PartitionGuard, faults: dict[int, Exception]) -> list[int]:
    """Return the partitions in which the work was done."""
    done = []
    for partition in range(3):
        with partition_guard("claim", partition):
            if partition in faults:
                raise faults[partition]
            done.append(partition)
    return done


def test_one_partition_s_fault_is_not_the_next_one_s_and_is_logged_once() -> None:
    partition_guard = PartitionGuard()
    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            assert _go_over(partition_guard, {1: StoreError("wrong type")}) == [0, 2]
        assert [line["partition"] for line in logged] == [1]
        assert _go_over(partition_guard, {1: StoreError("another")}) == [0, 2]
        assert _go_over(partition_guard, {}) == [0, 1, 2]
        assert _go_over(partition_guard, {1: StoreError("another")}) == [0, 2]
    assert [line["partition"] for line in logged] == [1, 1, 1]


def test_redis_away_is_of_all_partitions() -> None:
    with pytest.raises(UnavailableError):
        _go_over(PartitionGuard(), {0: UnavailableError("Redis is away.")})
