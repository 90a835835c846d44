"""The retry budget: a share of the first calls, and a few a minute for idle providers."""

from hypothesis import given, strategies as st

from shared.settings import RetrySettings
from worker.resilience.retry_budget import RetryBudget


def _spent(budget: RetryBudget, now: float, at_most: int = 1_000) -> int:
    return next((count for count in range(at_most) if not budget.try_withdraw(now)), at_most)


def test_a_quiet_provider_may_be_retried_so_often_a_minute() -> None:
    budget = RetryBudget(RetrySettings(), 0.0)
    assert _spent(budget, 0.0) == 10
    assert _spent(budget, 30.0) == 5
    assert _spent(budget, 90.0) == 10
    assert _spent(budget, 9_000.0) == 10


def test_ten_first_tries_pay_for_a_retry() -> None:
    budget = RetryBudget(RetrySettings(per_minute_min=0), 0.0)
    for _ in range(50):
        budget.deposit()
    assert _spent(budget, 0.0) == 5
    assert _spent(budget, 9_000.0) == 0


def test_what_busy_hours_save_up_is_bounded() -> None:
    budget = RetryBudget(RetrySettings(), 0.0)
    for _ in range(100_000):
        budget.deposit()
    assert _spent(budget, 0.0) == 100


@given(st.lists(st.sampled_from(["earn", "spend"]), max_size=400), st.floats(0, 1))
def test_retries_never_exceed_the_share_and_what_there_was(steps: list[str], share: float) -> None:
    budget = RetryBudget(RetrySettings(share=share, per_minute_min=3), 0.0)
    earned = spent = 0
    for step in steps:
        if step == "earn":
            budget.deposit()
            earned += 1
        else:
            spent += budget.try_withdraw(0.0)
        assert spent <= 3 + share * earned + 1e-3
