"""Which part of a conversation is sent: the latest whole turns that fit."""

from hypothesis import given, strategies as st

from shared.routing import price
from shared.wire.conversation import CallPart
from tests.worker.providers.messages import calling, result
from worker.providers.contract import ChatMessage, Turn, text_message
from worker.steps.truncate_history import tokens_of, truncate_history

_WORDS = st.text(max_size=60)
_TURNS = st.lists(st.tuples(_WORDS, _WORDS), max_size=12)
_ROUND = (calling(CallPart("c", "f", "{}")), result("c", "done"))
_ROOM = st.integers(-10, 400)


def _history(turns: list[tuple[str, str]]) -> list[Turn]:
    """Return turns; every other one has a round of calls between its two messages."""
    return [
        (
            text_message("user", asked),
            *(_ROUND if number % 2 else ()),
            text_message("assistant", answered),
        )
        for number, (asked, answered) in enumerate(turns)
    ]


def _flat(history: list[Turn]) -> list[ChatMessage]:
    return [message for turn in history for message in turn]


@given(st.none() | _WORDS, _TURNS, _WORDS, _ROOM)
def test_what_is_sent_is_the_prompt_the_last_whole_turns_and_the_message(
    prompt: str | None, turns: list[tuple[str, str]], message: str, room: int
) -> None:
    history = _history(turns)
    sent = truncate_history(prompt, history, message, tokens_max=room)
    head = [text_message("system", prompt)] if prompt else []
    kept = sent[len(head) : -1]
    assert sent[: len(head)] == head
    assert sent[-1] == text_message("user", message)
    assert kept in [_flat(history[first:]) for first in range(len(history) + 1)]


@given(st.none() | _WORDS, _TURNS, _WORDS, _ROOM)
def test_what_is_sent_is_within_the_room_and_no_turn_more_would_be(
    prompt: str | None, turns: list[tuple[str, str]], message: str, room: int
) -> None:
    history = _history(turns)
    sent = truncate_history(prompt, history, message, tokens_max=room)
    fixed = 2 if prompt else 1
    kept = len(sent) - fixed
    assert tokens_of(sent) <= room or kept == 0
    dropped = next(
        turns for turns in _dropped(history) if len(_flat(history)) - kept == len(_flat(turns))
    )
    if dropped:
        assert tokens_of([*sent, *dropped[-1]]) > room


def _dropped(history: list[Turn]) -> list[list[Turn]]:
    """Return what may be left out: any number of turns, oldest first."""
    return [history[:count] for count in range(len(history) + 1)]


@given(_TURNS, _WORDS)
def test_all_of_a_short_conversation_is_sent(turns: list[tuple[str, str]], message: str) -> None:
    history = _history(turns)
    assert truncate_history(None, history, message, tokens_max=10**6) == [
        *_flat(history),
        text_message("user", message),
    ]


@given(_TURNS, _WORDS, _ROOM, st.integers(0, 100))
def test_more_room_never_keeps_less(
    turns: list[tuple[str, str]], message: str, room: int, more: int
) -> None:
    history = _history(turns)
    less = truncate_history("prompt", history, message, tokens_max=room)
    assert len(less) <= len(truncate_history("prompt", history, message, tokens_max=room + more))


def test_message_that_is_too_long_alone_is_sent_alone() -> None:
    history = _history([("a", "b")])
    assert truncate_history("p", history, "x" * 10_000, tokens_max=10) == [
        text_message("system", "p"),
        text_message("user", "x" * 10_000),
    ]


@given(st.lists(_WORDS))
def test_tokens_of_a_conversation_are_those_of_its_messages(texts: list[str]) -> None:
    messages = [text_message("user", text) for text in texts]
    assert tokens_of(messages) == sum(price.tokens_in(text) for text in texts)
