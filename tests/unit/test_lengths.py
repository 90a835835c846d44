"""How far an answer has come, by the length of others."""

from hypothesis import given, strategies as st

from worker.lengths import Lengths, progress

_LENGTH = st.integers(1, 100_000)


@given(_LENGTH, _LENGTH, _LENGTH)
def test_progress_never_falls_while_an_answer_grows_and_never_ends_it(
    expected: int, length: int, more: int
) -> None:
    before, after = progress(length, expected), progress(length + more, expected)
    assert 1 <= before <= after <= 99


def test_progress_is_the_share_of_the_expected_length() -> None:
    assert [progress(length, 400) for length in (1, 100, 200, 300, 380)] == [1, 25, 50, 75, 95]
    assert 95 <= progress(400, 400) < progress(2_000, 400) <= 99


def test_an_answer_is_expected_to_be_as_long_as_others_and_no_longer_than_it_may_be() -> None:
    lengths = Lengths()
    assert lengths.expected("m", 100) == 300
    lengths.hear({"m": 120})
    assert lengths.expected("m", 100) == 120
    assert lengths.expected("other", 100) == 300
    lengths.hear({"m": 1_000})
    assert lengths.expected("m", 100) == 300


def test_whole_answers_are_counted_once() -> None:
    lengths = Lengths()
    for model, length in (("m", 10), ("n", 7), ("m", 30)):
        lengths.note(model, length)
    assert lengths.tell() == (("m", 2, 40), ("n", 1, 7))
    assert lengths.tell() == ()
