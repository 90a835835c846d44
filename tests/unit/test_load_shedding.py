"""Which messages are rejected first when memory is short, and what Retry-After says."""

import pytest

from api.accept import load_shedding
from shared.stores.partition_load import PartitionLoad, has_memory
from shared.tiers import LimitSettings, TierName
from shared.wire.submission import Lane

_LIMITS = LimitSettings()


@pytest.mark.parametrize(
    ("share", "let_in"),
    [
        (0.0, {"batch-free", "batch-pro", "interactive-free", "interactive-pro"}),
        (0.69, {"batch-free", "batch-pro", "interactive-free", "interactive-pro"}),
        (0.7, {"interactive-free", "interactive-pro"}),
        (0.8, {"interactive-pro"}),
        (0.9, set()),
        (1.2, set()),
    ],
)
def test_batches_go_first_then_the_free_tier_then_all(share: float, let_in: set[str]) -> None:
    lanes: tuple[Lane, ...] = ("interactive", "batch")
    tiers: tuple[TierName, ...] = ("free", "pro")
    found = {
        f"{lane}-{tier}"
        for lane in lanes
        for tier in tiers
        if has_memory(PartitionLoad(used_share=share), _LIMITS, lane, tier)
    }
    assert found == let_in


def test_patience_follows_what_ends_a_second_and_is_spread() -> None:
    answers = {load_shedding.seconds_until_ended(100, 10.0) for _ in range(200)}
    assert min(answers) >= 10
    assert max(answers) <= 15
    assert len(answers) > 2


def test_patience_has_bounds() -> None:
    assert all(1 <= load_shedding.seconds_until_ended(1, 1000.0) <= 2 for _ in range(50))
    assert all(load_shedding.seconds_until_ended(10**9, 0.1) <= 300 for _ in range(50))
    assert len({load_shedding.seconds_until_ended(10**9, 0.1) for _ in range(200)}) > 20
    assert all(10 <= load_shedding.seconds_until_ended(1, 0.0) <= 15 for _ in range(50))
    full = PartitionLoad(unfinished=1_000_000)
    assert all(100 <= load_shedding.seconds_until_room(full, 100.0) <= 150 for _ in range(50))
