"""Circuit breakers and retry budgets in the pipeline: what workers share, and what callers see."""

import asyncio
from typing import Any

import msgspec
import pytest

from shared import ids
from shared.catalogue import Catalogue
from shared.errors import Failure, ProviderError, UnavailableError
from shared.redis import keys
from shared.wire.generation import Generation
from shared.wire.routing import StoredRouting
from tests.support.scripted_provider import Request, ScriptedAnswer, ScriptedProvider, by_words
from tests.support.system import System
from tests.support.waiting import until
from tests.worker.front import Front
from tests.worker.lossy_redis import LossyRedis
from tests.worker.running_workers import running_worker
from tests.worker.single_attempts import ANN, Attempts
from worker.providers.registry import Registry
from worker.resilience import retry_policy
from worker.resilience.circuit_breaker import CircuitBreaker
from worker.resilience.circuits import Caller

_FAILED = ProviderError(Failure(message="No.", category="timeout", code="X"), retry="backoff")
_USED_UP = "The upstream calls that a message may make were used up as workers died."
_REFUSED = ProviderError(Failure(message="No.", category="invalid_request", code="X"))


def _failure(ended: Generation) -> Failure:
    assert ended.assistant is not None
    assert ended.assistant.failure is not None
    return ended.assistant.failure


def _excluded(ended: Generation) -> dict[str, str | None]:
    assert ended.assistant is not None
    kept = ended.assistant.routing
    assert isinstance(kept, StoredRouting)
    return {each.model: each.excluded_by for each in kept.restored().candidates}


async def _fail(gate: CircuitBreaker, model: Any, error: BaseException, times: int = 1) -> None:  # noqa: ANN401  a model
    for _ in range(times):
        caller = Caller(ids.new_id(), ids.new_id())
        with pytest.raises(type(error)):
            async with gate.call(model, caller, lane="interactive", tokens=1):
                raise error


async def _freeze(attempts: Attempts) -> None:
    """Let the first model cool."""
    await _fail(attempts.circuit_breaker, attempts.settings.models[0], _FAILED, 5)


# The breaker


async def test_a_healthy_call_asks_redis_nothing(attempts: Attempts) -> None:
    class UnusedRedis:
        async def call(self, *_command: object, repeat: bool = True) -> object:
            raise UnavailableError(f"asked {repeat}")

        def send(self, *command: object) -> None:
            raise AssertionError(command)

    attempts.redis = UnusedRedis()
    async with attempts.circuit_breaker.call(
        attempts.settings.models[0], ANN, lane="batch", tokens=9
    ) as call:
        call.note_first_part()
    alpha = attempts.circuit_breaker.circuit_of(attempts.settings.models[0])
    assert attempts.circuit_breaker.take_report().answered == ((alpha, 1),)
    assert attempts.circuit_breaker.take_report().answered == ()


async def test_one_worker_learns_from_another_that_a_breaker_is_open(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    alpha = system.settings.models[0]
    async with running_worker(system) as one, running_worker(system) as other:
        circuit_breakers = [worker.ctx["dependencies"].circuit_breaker for worker in (one, other)]
        await _fail(circuit_breakers[0], alpha, _FAILED, 5)
        await until(lambda: circuit_breakers[1].find_bar(alpha, "ann"), 3)
        ended = await front.end(await front.submit("hello"))
        assert _excluded(ended) == {"alpha": "cooling", "beta": None}
        assert [request.body["model"] for request in provider.requests] == ["upstream-beta"]
        await front.thaw(circuit_breakers[0])
        async with circuit_breakers[0].call(alpha, ANN, lane="interactive", tokens=1) as call:
            call.note_first_part()
        await until(lambda: not circuit_breakers[1].open_circuits(), 3)
    opened = [line for line in system.lines if line["event"] == "breaker opened"]
    assert [line["circuit"] for line in opened] == ["scripted/alpha/open"]
    assert [line["event"] for line in system.lines if line["event"].startswith("breaker ")] == [
        "breaker opened",
        "breaker probed",
        "breaker closed",
    ]


async def test_auto_goes_around_a_model_that_cools(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    await _freeze(attempts)
    ended = await attempts.ended("hello")
    assert (ended.stage, ended.attempt) == ("completed", 1)
    assert _excluded(ended) == {"alpha": "cooling", "beta": None}
    assert len(provider.requests) == 1
    assert (await front.credit_totals()).held == 0


async def test_breaker_that_opens_under_a_route_sends_it_on_at_once(
    attempts: Attempts, provider: ScriptedProvider
) -> None:
    def say(request: Request) -> ScriptedAnswer:
        is_first = request.body["model"] == "upstream-alpha"
        return ScriptedAnswer(status=500) if is_first else by_words(request)

    provider.answer = say
    for _ in range(4):
        assert (await attempts.ended("hello")).stage == "completed"
    asked = [str(request.body["model"]).removeprefix("upstream-") for request in provider.requests]
    # Three messages of one account close it to that account; what beta answered does not count.
    assert asked == (["alpha"] * 2 + ["beta"]) * 2 + ["alpha", "beta", "beta"]


async def test_model_asked_for_by_name_waits_as_long_as_its_deadline_lets_it(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    await _freeze(attempts)
    ticket = await front.submit(model="alpha")
    for deferral in range(1, 12):
        await attempts.run(ticket)
        assert (await front.poll(ticket)).stage == "retrying"
        assert (await front.record(ticket))["retries"] == str(deferral)
        await front.hasten(ticket)
    assert provider.requests == []
    await front.thaw(attempts.circuit_breaker)
    await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "completed"


async def test_model_asked_for_by_name_is_answered_once_its_probe_is_due(
    attempts: Attempts, front: Front
) -> None:
    await _freeze(attempts)
    ticket = await front.submit(model="alpha")
    await attempts.run(ticket)
    await front.hasten(ticket)
    await front.thaw(attempts.circuit_breaker)
    await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "completed"
    assert attempts.circuit_breaker.open_circuits() == ()


async def test_a_call_that_finds_a_probe_under_way_is_not_deferred_for_it(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    await _freeze(attempts)
    await front.thaw(attempts.circuit_breaker)
    ticket = await front.submit(model="alpha")
    async with attempts.circuit_breaker.call(
        attempts.settings.models[0], ANN, lane="interactive", tokens=1
    ):
        for waits in range(1, 6):
            await attempts.run(ticket)
            record = await front.record(ticket)
            assert (record["stage"], record["waits"], record.get("retries")) == (
                "retrying",
                str(waits),
                None,
            )
            await front.hasten(ticket)
    await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "completed"
    assert len(provider.requests) == 1


async def test_refused_credentials_open_it_at_once_and_are_not_waited_for(
    attempts: Attempts, provider: ScriptedProvider
) -> None:
    provider.answer = lambda _: ScriptedAnswer(status=401)
    first = _failure(await attempts.ended("hello", model="alpha"))
    second = _failure(await attempts.ended("hello", model="alpha"))
    assert (first.code, second.code) == ("BAD_CREDENTIALS", "PROVIDER_COOLING")
    assert (first.category, second.category) == ("auth", "auth")
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    "error",
    [_REFUSED, asyncio.CancelledError(), ValueError("ours")],
    ids=["theirs", "stop", "ours"],
)
async def test_what_is_not_the_provider_s_fault_does_not_count(
    attempts: Attempts, error: Exception
) -> None:
    alpha = attempts.settings.models[0]
    await _fail(attempts.circuit_breaker, alpha, error, 9)
    assert attempts.circuit_breaker.open_circuits() == ()


@pytest.mark.parametrize(
    "error",
    [_REFUSED, asyncio.CancelledError(), ValueError("ours")],
    ids=["theirs", "stop", "ours"],
)
async def test_probe_that_learns_nothing_is_given_back(
    attempts: Attempts, front: Front, error: Exception
) -> None:
    alpha = attempts.settings.models[0]
    await _freeze(attempts)
    await front.thaw(attempts.circuit_breaker)
    with pytest.raises(type(error)):
        async with attempts.circuit_breaker.call(alpha, ANN, lane="interactive", tokens=1):
            raise error
    async with attempts.circuit_breaker.call(alpha, ANN, lane="interactive", tokens=1):
        pass
    assert attempts.circuit_breaker.open_circuits() == ()


async def test_few_failures_among_many_answers_do_not_count(attempts: Attempts) -> None:
    alpha = attempts.settings.models[0]
    for _ in range(9):
        async with attempts.circuit_breaker.call(alpha, ANN, lane="interactive", tokens=1):
            pass
    await _fail(attempts.circuit_breaker, alpha, _FAILED, 8)
    assert attempts.circuit_breaker.open_circuits() == ()
    await _fail(attempts.circuit_breaker, alpha, _FAILED)
    assert attempts.circuit_breaker.open_circuits() == (attempts.circuit_breaker.circuit_of(alpha),)


async def test_a_rate_limit_opens_no_breaker(attempts: Attempts) -> None:
    failure = Failure(message="No.", category="rate_limit", code="X")
    error = ProviderError(failure, retry="backoff", retry_after_seconds=1.0)
    await _fail(attempts.circuit_breaker, attempts.settings.models[0], error, 9)
    assert attempts.circuit_breaker.open_circuits() == ()


async def test_failure_that_cannot_be_reported_is_still_the_failure(
    attempts: Attempts, front: Front
) -> None:
    lossy_redis = LossyRedis(front.redis, "record_failure")
    lossy_redis.troubles.extend(["lost"] * 9)
    attempts.redis = lossy_redis
    await _fail(attempts.circuit_breaker, attempts.settings.models[0], _FAILED, 9)
    assert len(lossy_redis.asked) == 9
    assert "key" not in str(lossy_redis.asked)


async def test_circuit_tells_a_key_from_another_and_not_the_key(system: System) -> None:
    circuit_breakers = []
    for key in ("sk-wholly-secret", "sk-another"):
        async with running_worker(system, {"NO_SUCH_KEY": key}) as worker:
            circuit_breakers.append(
                worker.ctx["dependencies"].circuit_breaker.circuit_of(system.settings.models[2])
            )
    assert len(set(circuit_breakers)) == 2
    assert all(circuit.startswith("keyless/gamma/") for circuit in circuit_breakers)
    assert "sk-" not in str(circuit_breakers)


async def test_operator_sees_what_cools(system: System) -> None:
    await system.front()
    async with running_worker(system) as worker:
        await _fail(
            worker.ctx["dependencies"].circuit_breaker, system.settings.models[0], _FAILED, 5
        )
        nobody = await system.caller({})

        async def open_circuits_shown() -> object:
            return (await nobody.get("/readyz")).json().get("cooling")

        assert await until(open_circuits_shown, 5) == ["scripted/alpha"]


async def test_circuit_breaker_over_another_catalogue_knows_what_this_one_knew(
    attempts: Attempts,
) -> None:
    await _freeze(attempts)
    alpha, beta, _ = attempts.settings.models
    registry = Registry(Catalogue((attempts.settings.providers[0],), (beta, alpha)), {})
    gate = attempts.circuit_breaker.with_registry(registry)
    assert gate.cooling("ann") == {"alpha"}
    gate.update({}, frozenset())
    assert attempts.circuit_breaker.open_circuits() == ()
    await registry.close()


async def test_the_hold_for_a_model_that_cools_is_not_overdrawn(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    alpha, beta, gamma = attempts.settings.models
    models = (
        msgspec.structs.replace(alpha, input_rate=0.01, output_rate=0.01),
        msgspec.structs.replace(beta, input_rate=1000.0, output_rate=1000.0),
        gamma,
    )
    attempts.settings = msgspec.structs.replace(attempts.settings, models=models)
    await _freeze(attempts)
    ticket = await front.submit("hello", hold=100)
    await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "retrying"
    assert provider.requests == []
    await front.cancel(ticket)


async def test_a_model_asked_for_by_name_answers_whatever_else_cools(attempts: Attempts) -> None:
    await _fail(attempts.circuit_breaker, attempts.settings.models[1], _FAILED, 5)
    # What a session remembers was not known when the credits were set aside.
    prompt = "Speak like a pirate. " * 40
    ended = await attempts.ended("hello", model="alpha", hold=3_000, system_prompt=prompt)
    assert ended.stage == "completed"


# The budget


async def test_without_a_budget_a_message_waits_in_the_queue(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    retries = msgspec.structs.replace(attempts.settings.retries, per_minute_min=1)
    attempts.settings = msgspec.structs.replace(attempts.settings, retries=retries)
    provider.script.extend(ScriptedAnswer(status=500) for _ in range(4))
    first, second = await front.submit(model="alpha"), await front.submit(model="alpha")
    for ticket in (first, second):
        await attempts.run(ticket)
        assert (await front.poll(ticket)).stage == "retrying"
    # The one retry that there was is the first message's.
    assert len(provider.requests) == 3
    provider.script.clear()
    for ticket in (first, second):
        await front.hasten(ticket)
        await attempts.run(ticket)
        assert (await front.poll(ticket)).stage == "completed"


async def test_without_a_budget_the_next_of_the_route_is_tried(
    attempts: Attempts, provider: ScriptedProvider
) -> None:
    retries = msgspec.structs.replace(attempts.settings.retries, per_minute_min=0)
    attempts.settings = msgspec.structs.replace(attempts.settings, retries=retries)
    provider.script.append(ScriptedAnswer(status=500))
    ended = await attempts.ended("hello")
    assert ended.stage == "completed"
    assert _excluded(ended) == {"alpha": "failed", "beta": None}
    assert len(provider.requests) == 2


async def test_a_long_wait_that_one_call_was_asked_for_closes_nothing_for_others(
    attempts: Attempts,
) -> None:
    failure = Failure(message="No.", category="overloaded", code="PROVIDER_OVERLOADED")
    error = ProviderError(failure, retry="backoff", retry_after_seconds=900.0)
    await _fail(attempts.circuit_breaker, attempts.settings.models[0], error)
    assert attempts.circuit_breaker.open_circuits() == ()


async def test_a_turn_whose_calls_are_used_up_makes_no_seventh(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    """Attempts that died made the others."""
    ticket = await front.submit("hello", model="alpha")
    record = keys.GENERATION(ticket.root, ticket.account, ticket.id)
    await front.redis.call("HSET", record, "calls", retry_policy.CALLS_PER_TURN_MAX)
    await attempts.run(ticket)
    failure = _failure(await front.poll(ticket))
    assert (failure.code, failure.message) == ("CRASHED", _USED_UP)
    assert provider.requests == []
