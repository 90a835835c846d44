"""What the measurements of a batch say: rate, ETA, forecast of credits, hint."""

import math
import random

import msgspec
import pytest

from api.polling import batch_pace
from api.polling.eta import Eta
from shared.wire.batch import Batch
from tests.support.api_client import Json

_START = 1_000_000


def _batch(*ends: int, total: int = 200, **fields: object) -> Batch:
    """Return a running batch of which so many ended in each of its seconds."""
    marks, ended = [(_START, 0)], 0
    for second, count in enumerate(ends, 1):
        ended += count
        marks.append((_START + second * 1_000, ended))
    given: Json = {"completed": ended, "position": ended, "marks": tuple(marks), "started": _START}
    made: Json = {"id": "b", "state": "running", "created": 0, "total": total}
    return Batch(**made | given | fields)


def _pace(batch: Batch, *, later_ms: int = 0) -> batch_pace.Pace:
    return batch_pace.of(batch, batch.marks[-1][0] + later_ms)


def test_the_eta_is_what_is_left_at_the_recent_rate() -> None:
    pace = _pace(_batch(10, 30, 20, 20))
    assert pace.items_per_second == 20
    assert pace.eta is not None
    assert pace.eta.p50 == 6
    # 120 at 13.2 a second: 20 less 1.28 times 4.1 times the root of 1 + 4 s measured / 6 s left.
    assert pace.eta.p90 == pytest.approx(120 / 13.245, rel=0.001)
    assert pace.progress == 40


def test_steady_ends_make_a_narrow_eta_and_uneven_ones_a_wide_one() -> None:
    assert _pace(_batch(20, 20, 20)).eta == Eta(7, 7)
    uneven = _pace(_batch(0, 0, 60)).eta
    assert uneven is not None
    assert uneven == Eta(7, 28)


def _kept(persistence: float, seed: int, total: int = 200_000) -> list[bool]:
    """Return of each second if p90 was kept; `persistence` of a deviation stays in the next."""
    chance, deviation = random.Random(seed), 0.0
    ends: list[int] = []
    while sum(ends) < total:
        news = chance.gauss(0, 1) * math.sqrt(1 - persistence**2)
        deviation = persistence * deviation + news
        ends.append(max(1, int(2_000 + 400 * deviation)))
    kept = []
    for second in range(len(ends) // 10 + 2, len(ends) * 9 // 10):
        ended = sum(ends[:second])
        recent = _batch(*ends[max(0, second - 30) : second], total=sum(ends))
        eta = _pace(msgspec.structs.replace(recent, completed=ended, position=ended)).eta
        assert eta is not None
        kept.append(second + eta.p90 + 0.5 >= len(ends))
    return kept


@pytest.mark.parametrize("persistence", [0.0, 0.5])
def test_nine_of_ten_batches_end_by_their_p90(persistence: float) -> None:
    kept = [each for seed in range(10) for each in _kept(persistence, seed)]
    assert 0.85 <= sum(kept) / len(kept) <= 0.97


def test_the_rate_falls_while_nothing_ends() -> None:
    batch = _batch(20, 20)
    assert _pace(batch, later_ms=2_000).items_per_second == 10
    assert _pace(_batch(0, 0)).eta is None


def test_one_measurement_counts_from_the_beginning() -> None:
    batch = _batch(total=100, marks=((_START + 5_000, 50),), completed=50)
    pace = _pace(batch)
    assert pace.items_per_second == 10
    # How evenly they end is not known yet.
    assert pace.eta == Eta(5, 20)


def test_a_pause_does_not_count() -> None:
    before = _batch(20, 20).marks
    after = [(_START + 3_600_000 + second * 1_000, 40 + 10 * second) for second in range(3)]
    batch = _batch(marks=(*before, *after), completed=60, position=60)
    assert _pace(batch).items_per_second == 10
    first = _batch(marks=(*before, after[0]), completed=40)
    assert _pace(first).items_per_second is None
    slow = _batch(marks=tuple((_START + number * 60_000, number) for number in range(4)))
    assert _pace(slow).items_per_second == pytest.approx(1 / 60)


def test_nothing_is_known_before_the_first_end() -> None:
    pace = batch_pace.of(_batch(marks=(), completed=0), _START + 9_000)
    assert pace == batch_pace.Pace(0, None, None, None, 5)
    paused = _pace(_batch(20, 20, state="paused", reason="user"))
    assert (paused.items_per_second, paused.eta, paused.hint) == (None, None, 30)


def test_the_forecast_is_what_items_cost_so_far() -> None:
    batch = _batch(10, 10, total=100, used=4_000)
    assert _pace(batch).forecast == 20_000
    # Wrong lines cost nothing, and are spread evenly over the file.
    batch = _batch(10, 10, total=100, used=4_000, invalid=50, completed=10, failed=10)
    assert _pace(batch).forecast == 20_000
    assert _pace(_batch(10, used=4_000, stop="cancelled")).forecast == 4_000
    assert _pace(_batch(10, used=0, completed=0, failed=10)).forecast is None


def test_progress_is_whole_at_the_end_only() -> None:
    assert _pace(_batch(999, total=1_000)).progress == 99
    ended = _batch(200, state="completed", finished=_START + 50_000, used=7)
    assert _pace(ended) == batch_pace.Pace(100, 4, None, 7, 1)


@pytest.mark.parametrize(("left", "hint"), [(20, 1), (600, 5), (100_000, 30)])
def test_the_hint_is_a_share_of_the_time_that_is_left(left: int, hint: int) -> None:
    assert _pace(_batch(20, 20, total=left + 40)).hint == hint
