"""A provider's limits per minute as intervals for Redis."""

from typing import Any

import pytest

from shared.settings import ProviderSettings
from worker.resilience.provider_rate_limits import ProviderRateLimits


def _limits(**limits: Any) -> ProviderRateLimits:  # noqa: ANN401  of any field
    return ProviderRateLimits(ProviderSettings(name="p", base_url="http://127.0.0.1:9", **limits))


def test_without_limits_nobody_is_asked() -> None:
    assert not _limits().provider.is_limited
    for name in ("concurrency_max", "requests_per_minute", "tokens_per_minute"):
        assert _limits(**{name: 1}).provider.is_limited


@pytest.mark.parametrize("per_minute", [1, 2, 9, 10, 60, 599, 1_000_000])
def test_burst_and_rate_make_no_more_than_a_minute_s_worth(per_minute: int) -> None:
    ask = _limits(requests_per_minute=per_minute).admit_ask("c", "interactive", 0, 1_000)
    assert ask.request_us
    assert ask.request_burst_us
    burst = ask.request_burst_us // ask.request_us
    # In a minute: those at once, and one each time after.
    assert burst - 1 + 60_000_000 / ask.request_us <= per_minute
    assert burst - 1 + 60_000_000 / ask.request_us > 0.99 * per_minute - 1


def test_batch_work_takes_its_share_and_one_at_least() -> None:
    for limit, share, expected in ((8, 0.75, 6), (3, 0.75, 2), (1, 0.75, 1), (8, 1.0, 8)):
        ask = _limits(concurrency_max=limit, batch_share=share).admit_ask("c", "batch", 0, 1_000)
        assert (ask.concurrency_max, ask.batch_max) == (limit, expected)


def test_tokens_are_times_and_bounded_by_what_may_come_at_once() -> None:
    limits = _limits(tokens_per_minute=4_000)
    small = limits.admit_ask("c", "interactive", 300, 1_000)
    large = limits.admit_ask("c", "interactive", 50_000, 1_000)
    assert small.tokens_us == 300 * 20_000
    assert large.tokens_us == large.tokens_burst_us == small.tokens_burst_us == 1_000 * 20_000
    assert limits.depart_ask("c", "interactive", 300, 100).more_us == -200 * 20_000
    assert limits.depart_ask("c", "interactive", 50_000, 1_700).more_us == 700 * 20_000
    assert _limits(concurrency_max=1).depart_ask("c", "interactive", 3, 9).more_us is None
