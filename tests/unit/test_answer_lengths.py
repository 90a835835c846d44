"""The progress of an answer, by the lengths of other answers."""

from hypothesis import given, strategies as st

from worker.answer_lengths import AnswerLengths, progress

_LENGTH = st.integers(1, 100_000)


@given(_LENGTH, _LENGTH, _LENGTH)
def test_progress_never_falls_while_an_answer_grows_and_never_ends_it(
    expected_bytes: int, length: int, more: int
) -> None:
    before, after = progress(length, expected_bytes), progress(length + more, expected_bytes)
    assert 1 <= before <= after <= 99


def test_progress_is_the_share_of_the_expected_length() -> None:
    assert [progress(length, 400) for length in (1, 100, 200, 300, 380)] == [1, 25, 50, 75, 95]
    assert 95 <= progress(400, 400) < progress(2_000, 400) <= 99


def test_an_answer_is_expected_to_be_as_long_as_others_and_no_longer_than_it_may_be() -> None:
    lengths = AnswerLengths()
    assert lengths.expected_bytes("m", 100) == 300
    lengths.update({"m": 120})
    assert lengths.expected_bytes("m", 100) == 120
    assert lengths.expected_bytes("other", 100) == 300
    lengths.update({"m": 1_000})
    assert lengths.expected_bytes("m", 100) == 300


def test_whole_answers_are_counted_once() -> None:
    lengths = AnswerLengths()
    for model, length in (("m", 10), ("n", 7), ("m", 30)):
        lengths.note(model, length)
    assert lengths.take_report() == (("m", 2, 40), ("n", 1, 7))
    assert lengths.take_report() == ()
