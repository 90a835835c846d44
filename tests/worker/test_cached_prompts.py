"""What repeats in a conversation is kept in Anthropic's cache, and charged as it was read there."""

import json
from typing import Any, Final

import pytest

from shared.stores import ledger
from tests.support.chat_completions import Request
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.worker.front import Front, Ticket
from tests.worker.providers.anthropic import ended, grown, said, started
from tests.worker.search_scenes import SEARCH, engine_fixture, searching_fixture
from tests.worker.single_attempts import Attempts

__all__ = ["engine_fixture", "searching_fixture"]

_SYSTEM: Final = "Answer as a bear would." * 20
_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def _answer(text: str = "Two.", **usage: int) -> ScriptedAnswer:
    """Return an answer of the messages API; the first event counts the input."""
    events = (
        started(**(usage or {"input_tokens": 9})),
        grown("text_delta", text=text),
        ended("stop", output_tokens=2),
        said("message_stop"),
    )
    return ScriptedAnswer(raw=_HEAD + b"".join(events))


@pytest.fixture(name="claude")
def _claude(attempts: Attempts) -> Attempts:
    """Return a maker of attempts of which every model is one of Anthropic's."""
    attempts.change_providers(dialect="anthropic")
    attempts.change_models(
        upstream="claude-opus-5-5",
        cache_tokens_min=100,
        input_rate=4.0,
        cached_input_rate=0.2,
        cache_write_rate=5.0,
        output_rate=20.0,
    )
    return attempts


async def _turns(
    attempts: Attempts, front: Front, provider: ScriptedProvider, *answers: ScriptedAnswer
) -> list[Ticket]:
    """Have a conversation of so many turns, with a long system prompt."""
    provider.script.extend(answers)
    tickets: list[Ticket] = []
    for turn in range(len(answers)):
        session = tickets[0].session if tickets else None
        ticket = await front.submit(
            f"turn {turn}", session=session, system_prompt=None if session else _SYSTEM
        )
        await attempts.run(ticket)
        tickets.append(ticket)
    return tickets


def _marked(request: Request) -> list[str]:
    """Return the texts of a request that have a breakpoint."""
    system: Any = request.body.get("system", ())
    contents = [message["content"] for message in request.messages]
    blocks = [block for content in (system, *contents) for block in content]
    marked = [block for block in blocks if isinstance(block, dict) and "cache_control" in block]
    assert json.dumps(request.body).count("cache_control") == len(marked)
    return [block["text"] for block in marked]


async def test_a_conversation_is_kept_in_the_cache_and_charged_as_it_was_read_and_written(
    claude: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    counts = [
        {"input_tokens": 10, "cache_creation_input_tokens": 600},
        {"input_tokens": 10, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 600},
        {"input_tokens": 10, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 620},
    ]
    answers = [_answer(f"answer {n}", **usage) for n, usage in enumerate(counts)]
    tickets = await _turns(claude, front, provider, *answers)
    assert [_marked(request) for request in provider.requests] == [
        [_SYSTEM],
        [_SYSTEM, "answer 0"],
        [_SYSTEM, "answer 1"],
    ]
    costs = [
        (10 * 400 + 600 * 500 + 2 * 2_000),
        (10 * 400 + 20 * 500 + 600 * 20 + 2 * 2_000),
        (10 * 400 + 20 * 500 + 620 * 20 + 2 * 2_000),
    ]
    assert [(await front.poll(ticket)).captured for ticket in tickets] == [
        min(100_000, costs[0]),
        *costs[1:],
    ]
    used = (await front.poll(tickets[2])).assistant
    assert used is not None
    assert used.usage is not None
    assert (used.usage.cached_input_tokens, used.usage.cache_write_tokens) == (620, 20)
    lines = await ledger.last(front.redis, tickets[0].root, tickets[0].account, 9)
    charges = [line.entry for line in lines if line.entry.kind == "charge"]
    assert [entry.amount + entry.overrun for entry in charges] == costs[::-1]


async def test_a_history_that_is_cut_is_not_kept_since_each_turn_begins_elsewhere(
    claude: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    claude.change_models(context_window=256, max_output_tokens=16)
    await _turns(claude, front, provider, *(_answer() for _ in range(6)))
    assert _marked(provider.requests[1]) == [_SYSTEM, "Two."]
    assert len(provider.requests[-1].messages) < 2 * 5
    assert _marked(provider.requests[-1]) == [_SYSTEM]


async def test_results_of_a_search_in_the_system_prompt_are_not_kept(
    claude: Attempts, searching: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    assert claude is searching
    provider.script.append(_answer())
    ticket = await front.submit("How many bears?", system_prompt=_SYSTEM, features=SEARCH)
    await searching.run(ticket)
    assert (await front.poll(ticket)).stage == "completed"
    assert "Bears come in twos." in provider.requests[0].body["system"]
    assert _marked(provider.requests[0]) == []
