"""Dead letters: a generation whose provider fails is kept, listed, retried, and answered once."""

import msgspec
import pytest

from shared.errors import Failure
from shared.redis import keys
from shared.redis.functions import Retried, RetryRefused
from shared.stores.dead_letters import ALL, DeadLetters
from shared.wire.account import Account
from shared.wire.dead_letter import DeadLetter, DeadLetterName
from shared.wire.generation import Generation
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System
from tests.worker.front import GRANT, HOLD, Front, Ticket
from tests.worker.single_attempts import Attempts


@pytest.fixture
async def letters(system: System, front: Front) -> DeadLetters:
    """Return the dead letters of the deployment, in which ann is."""
    ann = Account(id="ann", tier="pro", partition=front.partition_of("ann"), created=0)
    where = keys.ACCOUNT(keys.system_root(system.settings.redis), "ann")
    await front.redis.call("SET", where, msgspec.msgpack.encode(ann))
    return DeadLetters(front.redis, system.accounts, system.settings)


async def _dies(attempts: Attempts, front: Front, provider: ScriptedProvider) -> Ticket:
    provider.script.extend([ScriptedAnswer(huge_bytes=2_000_000)] * 2)
    ticket = await front.submit("Why?")
    await attempts.run(ticket)
    provider.script.clear()
    return ticket


async def _the_one(letters: DeadLetters) -> DeadLetter:
    [letter] = (await letters.list_letters(ALL, None, 10)).letters
    return letter


async def _look(front: Front, ticket: Ticket, generation: str) -> Generation:
    return await front.poll(ticket._replace(id=generation))


async def test_failure_of_a_provider_is_kept_with_its_code_and_reported(
    attempts: Attempts,
    front: Front,
    provider: ScriptedProvider,
    letters: DeadLetters,
    system: System,
) -> None:
    ticket = await _dies(attempts, front, provider)
    ended = await front.poll(ticket)
    assert ended.assistant is not None
    letter = await _the_one(letters)
    assert letter.name == DeadLetterName("ann", ticket.id)
    assert letter.failure == ended.assistant.failure
    assert isinstance(letter.failure, Failure)
    assert (letter.failure.category, letter.failure.provider) == ("provider_error", "scripted")
    assert (letter.model, letter.chosen, letter.hold) == ("auto", "beta", HOLD)
    [attempt] = letter.attempts
    assert (attempt.attempt, attempt.worker, attempt.why) == (1, "nobody", letter.failure.code)
    found = await letters.find(letter.name)
    assert found is not None
    assert found.letter == letter
    assert found.asked.message is not None
    assert found.asked.message.content == "Why?"
    assert found.asked.submission is not None
    assert found.asked.submission.session == ticket.session
    [line] = [each for each in system.lines if each["event"] == "dead letter"]
    assert (line["log_level"], line["code"]) == ("warning", letter.failure.code)


async def test_deferral_has_its_code(
    attempts: Attempts, front: Front, provider: ScriptedProvider, letters: DeadLetters
) -> None:
    ticket = await front.submit(model="alpha")
    provider.script.append(ScriptedAnswer(status=429, headers={"retry-after": "9"}))
    await attempts.run(ticket)
    await front.thaw(attempts.circuit_breaker)
    await front.hasten(ticket)
    provider.script.append(ScriptedAnswer(status=401))
    await attempts.run(ticket)
    letter = await _the_one(letters)
    assert [each.attempt for each in letter.attempts] == [1, 2]
    assert letter.attempts[0].why == "PROVIDER_RATE_LIMITED"
    assert letter.attempts[1].why == letter.failure.code
    assert letter.failure.category == "auth"


async def test_what_the_caller_is_to_blame_for_is_not_kept(
    attempts: Attempts, front: Front, provider: ScriptedProvider, letters: DeadLetters
) -> None:
    provider.script.append(ScriptedAnswer(text="", finish_reason="content_filter"))
    ticket = await front.submit()
    await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "failed"
    assert (await letters.list_letters(ALL, None, 10)).letters == []


async def test_retried_letter_is_answered_and_charged_once(
    attempts: Attempts, front: Front, provider: ScriptedProvider, letters: DeadLetters
) -> None:
    ticket = await _dies(attempts, front, provider)
    credit_totals = await front.credit_totals()
    assert (credit_totals.balance, credit_totals.held, credit_totals.settled) == (GRANT, 0, 0)
    name = DeadLetterName("ann", ticket.id)
    retried = await letters.retry(name)
    assert isinstance(retried, Retried)
    assert await letters.retry(name) == retried
    assert (await letters.list_letters(ALL, None, 10)).letters == []
    await attempts.run(ticket._replace(id=retried.generation))
    answered = await _look(front, ticket, retried.generation)
    assert (answered.stage, answered.text, answered.turn) == ("completed", "You said: Why?", 2)
    assert provider.requests[-1].body["messages"] == [{"role": "user", "content": "Why?"}]
    credit_totals = await front.credit_totals()
    assert (credit_totals.held, credit_totals.settled) == (0, answered.captured)
    assert credit_totals.balance == GRANT - answered.captured
    assert answered.captured > 0
    # The first turn ended and stays so; the second is the answer.
    first, second = await front.turns(ticket, 2)
    assert [turn.state for turn in (first, second)] == ["failed", "completed"]
    kept = await letters.find(name)
    assert kept is not None
    assert kept.letter.retried_as == retried.generation


async def test_discarded_letter_is_not_asked_again(
    attempts: Attempts, front: Front, provider: ScriptedProvider, letters: DeadLetters
) -> None:
    name = DeadLetterName("ann", (await _dies(attempts, front, provider)).id)
    assert await letters.discard([name, DeadLetterName("nobody", "x")]) == [True, False]
    assert await letters.find(name) is None
    assert await letters.retry(name) == RetryRefused("unknown")
    assert (await front.credit_totals()).balance == GRANT


async def test_what_can_no_longer_be_read_is_kept_as_it_is(
    attempts: Attempts, front: Front, letters: DeadLetters, system: System
) -> None:
    system.expected.add("unreadable record")
    ticket = await front.submit(blob=b"\xc1")
    await attempts.run(ticket)
    letter = await _the_one(letters)
    assert letter.failure.code == "UNREADABLE_RECORD"
    found = await letters.find(letter.name)
    assert found is not None
    assert found.asked.submission is None
    assert found.asked.message is not None


@pytest.mark.parametrize(
    ("wanted", "is_found"),
    [
        ({"category": "provider_error"}, True),
        ({"category": "internal"}, False),
        ({"provider": "scripted"}, True),
        ({"provider": "other"}, False),
        ({"model": "auto"}, True),
        ({"model": "beta"}, True),
        ({"model": "gamma"}, False),
        ({"account": "ann"}, True),
        ({"account": "bob"}, False),
        ({"account": "no:name"}, False),
        ({"code": "NO_SUCH"}, False),
        ({"since_ms": 1}, True),
        ({"until_ms": 1}, False),
        ({"since_ms": 32_000_000_000_000}, False),
    ],
)
async def test_letters_are_found_by_what_they_are(
    attempts: Attempts,
    front: Front,
    provider: ScriptedProvider,
    letters: DeadLetters,
    wanted: dict[str, object],
    is_found: bool,
) -> None:
    ticket = await _dies(attempts, front, provider)
    page = await letters.list_letters(msgspec.structs.replace(ALL, **wanted), None, 10)
    found = [letter.name.id for letter in page.letters]
    assert found == ([ticket.id] if is_found else [])
    assert page.next is None


async def test_listing_goes_on_over_all_partitions(front: Front, letters: DeadLetters) -> None:
    down = Failure(message="No.", category="provider_error", code="DOWN")
    expected = []
    for number in range(7):
        ticket = await front.submit(account=f"one{number}")
        await front.fail(await front.claim(ticket), down)
        expected.append(ticket.id)
    found, place = [], None
    for _ in range(4):
        page = await letters.list_letters(ALL, place, 2)
        assert len(page.letters) <= 2
        found += page.letters
        place = page.next
        if place is None:
            break
    assert place is None
    assert sorted(each.name.id for each in found) == sorted(expected)
    times = [each.died for each in found]
    assert times == sorted(times, reverse=True)
