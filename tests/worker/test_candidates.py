"""The candidates of a worker: the models for which any worker of the fleet has a key."""

import msgspec
import pytest

from shared.wire.generation import Generation
from shared.wire.routing import StoredRouting
from tests.support.scripted_provider import ScriptedProvider
from tests.support.system import System
from tests.support.waiting import until
from tests.worker.front import Front
from tests.worker.running_workers import running_worker
from tests.worker.single_attempts import Attempts

_LONG = "word " * 6_000


@pytest.fixture(autouse=True)
def _roomy(attempts: Attempts) -> None:
    """Let the model that this worker has no key of be the only one with room for a long message."""
    *others, gamma = attempts.settings.models
    gamma = msgspec.structs.replace(gamma, context_window=1_000_000)
    attempts.settings = msgspec.structs.replace(attempts.settings, models=(*others, gamma))


def _weighed(ended: Generation) -> list[str]:
    assert ended.assistant is not None
    assert ended.assistant.routing is not None
    kept = ended.assistant.routing
    routing = kept.restored() if isinstance(kept, StoredRouting) else kept
    return [candidate.model for candidate in routing.candidates]


async def test_models_that_nobody_has_the_key_of_are_not_weighed(attempts: Attempts) -> None:
    assert _weighed(await attempts.ended("hello")) == ["alpha", "beta"]


async def test_models_of_other_workers_are_weighed_and_reported_as_unavailable(
    attempts: Attempts,
) -> None:
    attempts.configured = frozenset({"gamma", "of another catalogue"})
    assert _weighed(await attempts.ended("hello")) == ["alpha", "beta", "gamma"]


async def test_what_only_a_model_without_a_key_has_room_for_fails_at_once(
    attempts: Attempts,
) -> None:
    ended = await attempts.ended(_LONG)
    assert ended.assistant is not None
    assert ended.assistant.failure is not None
    assert ended.assistant.failure.code == "CONTEXT_TOO_LONG"


async def test_what_a_model_of_another_worker_has_room_for_waits_for_it(
    attempts: Attempts, front: Front
) -> None:
    attempts.configured = frozenset({"gamma"})
    ticket = await front.submit(_LONG)
    await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "retrying"


async def test_without_any_model_to_be_had_a_message_waits(
    attempts: Attempts, front: Front
) -> None:
    attempts.change_providers(api_key_env="NOBODYS_KEY")
    ticket = await front.submit()
    await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "retrying"
    record = await front.record(ticket)
    # Nothing was tried, so nothing was put off.
    assert (record.get("retries"), record["waits"]) == (None, "1")


async def test_a_model_of_a_newer_catalogue_waits_for_a_worker_that_knows_it(
    attempts: Attempts, front: Front
) -> None:
    attempts.configured = frozenset({"delta"})
    ticket = await front.submit(model="delta")
    await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "retrying"
    attempts.configured = frozenset()
    await front.hasten(ticket)
    await attempts.run(ticket)
    ended = await front.poll(ticket)
    assert ended.assistant is not None
    assert ended.assistant.failure is not None
    assert ended.assistant.failure.code == "MODEL_NOT_FOUND"


async def test_a_more_expensive_model_does_not_stand_in_for_another_worker_s(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    _, beta, gamma = attempts.settings.models
    beta = msgspec.structs.replace(beta, input_rate=1000.0, output_rate=4000.0)
    attempts.settings = msgspec.structs.replace(attempts.settings, models=(gamma, beta))
    attempts.configured = frozenset({"gamma"})
    ticket = await front.submit("hello", hold=1_000)
    await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "retrying"
    assert provider.requests == []
    # Where what was set aside pays for it, it does; and where nobody has the key of the other one.
    paid = await attempts.ended("hello", hold=100_000_000)
    attempts.configured = frozenset()
    alone = await attempts.ended("hello", hold=1_000)
    assert (paid.stage, alone.stage) == ("completed", "completed")


async def test_a_worker_learns_from_its_report_what_others_have_keys_of(system: System) -> None:
    async with running_worker(system) as worker, running_worker(system, {"NO_SUCH_KEY": "k"}):
        dependencies = worker.ctx["dependencies"]
        assert "gamma" not in dependencies.registry.served
        await until(lambda: worker.ctx["dependencies"].configured >= {"alpha", "beta", "gamma"})
        assert worker.ctx["dependencies"].offers(system.settings.models[2])
