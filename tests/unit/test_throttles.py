"""From which calls a provider's rate is learned."""

import pytest

from worker.resilience.throttles import _busiest_window


@pytest.mark.parametrize(
    ("ages", "expected"),
    [
        ([], (0, 0.0)),
        ([55.0], (1, 55.0)),
        ([40.0, 2.0, 1.0], (2, 2.0)),
        # Those that were sent at once are as many a second.
        ([0.3, 0.2, 0.1], (3, 0.3)),
        ([90.0, 70.0], (0, 0.0)),
        ([float(age) for age in range(50, 0, -1)], (50, 50.0)),
    ],
)
def test_the_busiest_stretch_up_to_now_tells_the_rate(
    ages: list[float], expected: tuple[int, float]
) -> None:
    count, seconds = _busiest_window(ages)
    assert (count / max(seconds, 1.0)) == (expected[0] / max(expected[1], 1.0))
