"""The charge for an answer that is ended from outside, or whose usage was not reported."""

import asyncio
from typing import Final

import pytest

from shared.errors import CANCELLED, EXPIRED
from shared.redis import functions, keys
from shared.redis.functions import DeleteSessionAsk, KeepTimes, ReapAsk
from shared.routing import price
from shared.stores import ledger
from shared.wire.generation import Generation
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.worker.front import GRANT, HOLD, Front, Ticket
from tests.worker.single_attempts import Attempts
from worker.outcome import StopSignal

_WORDS: Final = 20


def _half(provider: ScriptedProvider) -> None:
    """Let the upstream stop in the middle of its answer."""
    provider.script.append(
        ScriptedAnswer(text="word " * 40, gate=asyncio.Event(), gate_after=_WORDS)
    )


async def _shown(front: Front, ticket: Ticket) -> Generation:
    return await front.seen(ticket, lambda found: found.text.count("word") == _WORDS)


async def _delete(front: Front, ticket: Ticket) -> None:
    ask = DeleteSessionAsk(
        account=ticket.account,
        id=ticket.session,
        keep=KeepTimes.of(front.settings.retention),
        channels="nobody:",
    )
    assert await functions.delete_session(front.redis, ticket.root, ask)


async def _reap(front: Front, ticket: Ticket) -> None:
    ask = ReapAsk(
        limit=100,
        crashes_max=3,
        lease_ms=2_000,
        gap_ms=86_400_000,
        absent_ms=86_400_000,
        channels="nobody:",
        keep=KeepTimes.of(front.settings.retention),
    )
    await functions.reap(front.redis, ticket.root, ask)


async def _die(attempt: "asyncio.Task[None]", stop_signal: StopSignal) -> None:
    """End an attempt as the death of its worker would: nothing more is written."""
    stop_signal.trigger("lost")
    await attempt


async def _charged(front: Front, ticket: Ticket) -> int:
    """Return what the account paid, which its books and its ledger agree on."""
    credit_totals = await front.credit_totals()
    assert (credit_totals.held, credit_totals.balance) == (0, GRANT - credit_totals.settled)
    lines = await ledger.last(front.redis, ticket.root, ticket.account, 10)
    charges = [line.entry for line in lines if line.entry.kind == "charge"]
    assert sum(entry.amount for entry in charges) == credit_totals.settled
    assert [entry.generation for entry in charges] == ([ticket.id] if charges else [])
    return credit_totals.settled


async def _cancelled_cost(attempts: Attempts, front: Front, provider: ScriptedProvider) -> int:
    """Return what a cancel at the same word costs."""
    _half(provider)
    ticket = await front.submit(account="somebody else")
    attempt = attempts.begin(ticket)
    await _shown(front, ticket)
    await front.cancel(ticket)
    attempts.stop_signal.trigger("cancel")
    await attempt
    return (await front.poll(ticket)).captured


async def test_deletion_in_the_middle_costs_what_a_cancel_does(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    expected = await _cancelled_cost(attempts, front, provider)
    _half(provider)
    ticket = await front.submit()
    attempt = attempts.begin(ticket)
    await _shown(front, ticket)
    await _delete(front, ticket)
    await _die(attempt, attempts.stop_signal)
    assert await _charged(front, ticket) == expected > 0


async def test_deletion_before_the_first_word_costs_nothing(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(gate=asyncio.Event()))
    ticket = await front.submit()
    attempt = attempts.begin(ticket)
    await front.seen(ticket, lambda _: provider.requests)
    await _delete(front, ticket)
    await _die(attempt, attempts.stop_signal)
    assert await _charged(front, ticket) == 0


async def test_deletion_while_the_model_thinks_costs_the_thoughts_that_were_shown(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    provider.script.append(
        ScriptedAnswer(
            text="word " * 9, reasoning="why " * 20, gate=asyncio.Event(), gate_after=_WORDS
        )
    )
    ticket = await front.submit()
    attempt = attempts.begin(ticket)
    await front.seen(ticket, lambda found: found.progress > 1)
    await _delete(front, ticket)
    await _die(attempt, attempts.stop_signal)
    assert await _charged(front, ticket) > 0


async def test_deadline_in_the_middle_ends_the_answer_and_takes_the_price_of_what_was_shown(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(text="word " * 40, gate=asyncio.Event(), gate_after=5))
    ticket = await front.submit(deadline_ms=400)
    await attempts.run(ticket)
    ended = await front.poll(ticket)
    assert ended.assistant is not None
    assert (ended.stage, ended.assistant.failure) == ("failed", EXPIRED)
    assert ended.text == "word word word word word"
    assert ended.assistant.usage is not None
    assert 0 < ended.captured == ended.assistant.usage.cost < HOLD
    assert (await front.credit_totals()).balance == GRANT - ended.captured
    assert provider.requests[0].gone_at is not None


async def test_deadline_of_a_dead_workers_answer_costs_what_a_cancel_does(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    expected = await _cancelled_cost(attempts, front, provider)
    _half(provider)
    ticket = await front.submit()
    attempt = attempts.begin(ticket)
    seen = await _shown(front, ticket)
    await _die(attempt, attempts.stop_signal)
    name = f"{ticket.account}:{ticket.id}"
    await front.redis.call("ZADD", keys.DEADLINES(ticket.root), "XX", 1, name)
    await _reap(front, ticket)
    ended = await front.poll(ticket)
    assert ended.assistant is not None
    assert (ended.stage, ended.assistant.failure) == ("failed", EXPIRED)
    assert ended.text == seen.text
    assert ended.assistant.usage is not None
    assert ended.assistant.usage.estimated
    assert await _charged(front, ticket) == ended.assistant.usage.cost == expected


async def test_cancel_of_a_dead_workers_answer_costs_the_same(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    expected = await _cancelled_cost(attempts, front, provider)
    _half(provider)
    ticket = await front.submit()
    attempt = attempts.begin(ticket)
    await _shown(front, ticket)
    await _die(attempt, attempts.stop_signal)
    await front.redis.call("ZADD", keys.LEASES(ticket.root), "XX", 1, f"ann:{ticket.id}")
    await front.cancel(ticket)
    await _reap(front, ticket)
    ended = await front.poll(ticket)
    assert ended.assistant is not None
    assert (ended.stage, ended.assistant.failure) == ("cancelled", CANCELLED)
    assert await _charged(front, ticket) == expected


async def test_what_a_later_attempt_dropped_is_not_charged(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    _half(provider)
    ticket = await front.submit()
    attempt = attempts.begin(ticket)
    await _shown(front, ticket)
    await _die(attempt, attempts.stop_signal)
    await front.redis.call("ZADD", keys.LEASES(ticket.root), "XX", 1, f"ann:{ticket.id}")
    await _reap(front, ticket)
    await front.claim(ticket)
    await _delete(front, ticket)
    assert await _charged(front, ticket) == 0


async def test_answer_whose_workers_all_died_costs_nothing(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    _half(provider)
    ticket = await front.submit()
    attempt = attempts.begin(ticket)
    await _shown(front, ticket)
    await _die(attempt, attempts.stop_signal)
    await front.redis.call("ZADD", keys.LEASES(ticket.root), "XX", 1, f"ann:{ticket.id}")
    await _reap(front, ticket)
    # The attempts after the first one die before they show anything.
    while not (ended := await front.poll(ticket)).is_final:
        await front.claim(ticket)
        await front.redis.call("ZADD", keys.LEASES(ticket.root), "XX", 1, f"ann:{ticket.id}")
        await _reap(front, ticket)
    assert ended.stage == "failed"
    assert await _charged(front, ticket) == 0


@pytest.mark.parametrize("told", ["0,0", "0,9", "9,0"])
async def test_usage_that_counts_nothing_is_estimated_and_said_to_be(
    attempts: Attempts, provider: ScriptedProvider, told: str
) -> None:
    given, made = map(int, told.split(","))
    head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    text = "word " * 500
    chunk = f'{{"choices":[{{"delta":{{"content":"{text}"}},"finish_reason":"stop"}}]}}'
    used = f'{{"usage":{{"prompt_tokens":{given},"completion_tokens":{made}}}}}'
    provider.script.append(ScriptedAnswer(raw=f"{head}data: {chunk}\n\ndata: {used}\n\n".encode()))
    ended = await attempts.ended()
    assert ended.assistant is not None
    usage = ended.assistant.usage
    assert usage is not None
    assert usage.estimated
    assert usage.output_tokens == (made or price.tokens_in(text))
    assert usage.input_tokens == given or usage.input_tokens >= price.tokens_in("hello")
    assert 0 < ended.captured == min(usage.cost, HOLD)
