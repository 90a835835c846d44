"""A conversation that may be too long is retried once with less of it."""

import pytest

from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.worker.front import Front
from tests.worker.single_attempts import Attempts


async def _talk(attempts: Attempts, front: Front, turns: int) -> str | None:
    """Return a session with so many completed turns."""
    session = None
    for turn in range(turns):
        ticket = await front.submit(f"turn {turn}", session=session)
        await attempts.run(ticket)
        session = ticket.session
    return session


@pytest.mark.parametrize(
    ("window", "turns", "answer", "calls"),
    [
        (512, 8, ScriptedAnswer(status=400), 2),
        (512, 8, ScriptedAnswer(status=413), 2),
        (512, 8, ScriptedAnswer(status=422), 2),
        (512, 8, ScriptedAnswer(status=400, code="unsupported_parameter"), 1),
        (512, 8, ScriptedAnswer(status=403), 1),
        (100_000, 8, ScriptedAnswer(status=400), 1),
        (512, 0, ScriptedAnswer(status=400), 1),
    ],
    ids=["400", "413", "422", "its parameter", "403", "short for its window", "no history"],
)
async def test_long_conversation_that_is_refused_for_no_reason_is_trimmed_once(
    attempts: Attempts,
    front: Front,
    provider: ScriptedProvider,
    window: int,
    turns: int,
    answer: ScriptedAnswer,
    calls: int,
) -> None:
    attempts.change_models(context_window=window, max_output_tokens=32)
    session = await _talk(attempts, front, turns)
    provider.requests.clear()
    provider.script.extend([answer, answer, answer])
    ticket = await front.submit("and?", session=session)
    await attempts.run(ticket)
    ended = await front.poll(ticket)
    assert ended.assistant is not None
    assert ended.assistant.failure is not None
    assert ended.assistant.failure.code == "REFUSED_REQUEST"
    assert ended.captured == 0
    assert len(provider.requests) == calls
    if calls > 1:
        first, second = (request.messages for request in provider.requests)
        assert second == first[-len(second) :]
        assert len(second) < len(first)
