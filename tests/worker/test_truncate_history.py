"""Which part of a conversation is sent: the latest whole turns that fit."""

from hypothesis import given, strategies as st

from shared.routing import price
from worker.providers.contract import ChatMessage, text_message
from worker.steps.truncate_history import tokens_of, truncate_history

_WORDS = st.text(max_size=60)
_TURNS = st.lists(st.tuples(_WORDS, _WORDS), max_size=12)
_ROOM = st.integers(-10, 400)


def _history(turns: list[tuple[str, str]]) -> list[ChatMessage]:
    return [
        message
        for asked, answered in turns
        for message in (text_message("user", asked), text_message("assistant", answered))
    ]


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
    assert len(kept) % 2 == 0
    assert kept == history[len(history) - len(kept) :]


@given(st.none() | _WORDS, _TURNS, _WORDS, _ROOM)
def test_what_is_sent_is_within_the_room_and_no_turn_more_would_be(
    prompt: str | None, turns: list[tuple[str, str]], message: str, room: int
) -> None:
    history = _history(turns)
    sent = truncate_history(prompt, history, message, tokens_max=room)
    fixed = 2 if prompt else 1
    kept = len(sent) - fixed
    assert tokens_of(sent) <= room or kept == 0
    if kept < len(history):
        dropped = history[len(history) - kept - 2 : len(history) - kept]
        assert tokens_of([*sent, *dropped]) > room


@given(_TURNS, _WORDS)
def test_all_of_a_short_conversation_is_sent(turns: list[tuple[str, str]], message: str) -> None:
    history = _history(turns)
    assert truncate_history(None, history, message, tokens_max=10**6) == [
        *history,
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
