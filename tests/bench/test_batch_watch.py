"""What the bench of a million prompts says of a batch's progress and of its results."""

import pytest

from tests.bench import batch_watch
from tests.bench.batch_watch import Sample
from tests.bench.result_reader import Line, Order, ResultCheck, decode

_MIB = 2**20


def _steady(*, p50_off: float = 1.0, rate: float = 10.0) -> list[Sample]:
    """Return samples of a batch of 1,000 that ends 10 items a second, by what the API says."""
    return [
        Sample(
            at=100.0 + second,
            ended=10 * second,
            rate=rate,
            p50=(100 - second) * p50_off,
            p90=(100 - second) * 1.1,
            resident=(50 * _MIB, 50 * _MIB + second * 1_000),
        )
        for second in range(101)
    ]


def test_the_longest_gap_is_between_two_ends() -> None:
    samples = [Sample(0, 0), Sample(1, 5), Sample(2, 5), Sample(4.5, 5), Sample(5, 9)]
    assert batch_watch.longest_gap(samples) == pytest.approx(4)


def test_a_steady_batch_is_foretold_exactly() -> None:
    samples = _steady()
    assert max(batch_watch.eta_errors(samples)) == pytest.approx(0)
    assert max(batch_watch.rate_errors(samples)[1:]) == pytest.approx(0)
    assert batch_watch.eta_kept(samples) == 1


def test_what_is_foretold_wrongly_is_found() -> None:
    assert min(batch_watch.eta_errors(_steady(p50_off=1.5))) == pytest.approx(0.5)
    assert min(batch_watch.rate_errors(_steady(rate=15.0))) == pytest.approx(0.5)
    late = [sample._replace(p90=1.0) for sample in _steady()]
    assert batch_watch.eta_kept(late) == 0


def test_a_worker_that_grows_is_found() -> None:
    assert batch_watch.growth_mib(_steady()) < 1
    grown = [
        sample._replace(resident=(50 * _MIB, 50 * _MIB + sample.ended * _MIB // 10))
        for sample in _steady()
    ]
    assert batch_watch.growth_mib(grown) == pytest.approx(70, abs=1)


def _line(number: int, seq: int | None = None, *, says: int | None = None) -> Line:
    found = decode(
        b'{"custom_id":"prompt-%d","line":%d,"state":"completed","credits":0.25,'
        b'"result":{"content":"answer %d"}}' % (number, number, says or number)
    )
    found.seq = seq
    return found


def _check(order: Order, *lines: Line) -> ResultCheck:
    check = ResultCheck(3, order, "answer {}".format)
    for line in lines:
        check.note(line)
    return check


def test_results_that_come_once_and_in_order_are_right() -> None:
    in_order = _check("input", _line(1), _line(2), _line(3))
    finished = _check("finished", _line(2, 1), _line(3, 2), _line(1, 3))
    for check in (in_order, finished):
        assert (check.fault_count, check.missing, check.microcredits) == (0, 0, 750_000)


@pytest.mark.parametrize(
    ("order", "lines"),
    [
        ("input", [_line(2), _line(1)]),
        ("input", [_line(1), _line(1)]),
        ("input", [_line(1, says=2)]),
        ("input", [_line(4)]),
        ("finished", [_line(1, 1), _line(1, 2)]),
        ("finished", [_line(1, 2)]),
    ],
)
def test_a_result_that_is_twice_or_out_of_order_or_wrong_is_found(
    order: Order, lines: list[Line]
) -> None:
    check = _check(order, *lines)
    assert check.fault_count > 0
    assert check.missing > 0
