"""The headers of a response keep the next call from being refused."""

import msgspec
import pytest

from shared.redis import keys
from tests.support.scripted_provider import Request, ScriptedAnswer, ScriptedProvider, by_words
from tests.worker.front import Front
from tests.worker.single_attempts import Attempts


def _told(left: str, reset: str) -> dict[str, str]:
    return {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": left,
        "x-ratelimit-reset-requests": reset,
    }


def _telling(provider: ScriptedProvider, headers: dict[str, str]) -> None:
    def answer(request: Request) -> ScriptedAnswer:
        return msgspec.structs.replace(by_words(request), headers=headers)

    provider.answer = answer


async def test_call_after_the_last_one_waits_in_the_queue_and_is_not_refused(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    _telling(provider, _told("0", "9s"))
    assert (await attempts.ended("hello", model="alpha")).stage == "completed"
    ticket = await front.submit(model="alpha")
    await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "retrying"
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    "headers",
    [
        _told("9", "9s"),
        _told("-5", "9s"),
        _told("nan", "9s"),
        _told("0", "-9s"),
        _told("0", "soon"),
        _told("0", "2001-01-01T00:00:00Z"),
        _told("1" * 400, "9s"),
        {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "9s"},
    ],
    ids=str,
)
async def test_headers_that_tell_of_no_end_hold_nothing_back(
    attempts: Attempts, front: Front, provider: ScriptedProvider, headers: dict[str, str]
) -> None:
    _telling(provider, headers)
    for _ in range(2):
        assert (await attempts.ended("hello", model="alpha")).stage == "completed"
    throttles = keys.THROTTLES(keys.system_root(attempts.settings.redis))
    assert await front.redis.call("EXISTS", throttles) == 0


async def test_other_models_of_a_provider_go_on(
    attempts: Attempts, provider: ScriptedProvider
) -> None:
    _telling(provider, _told("0", "9s"))
    assert (await attempts.ended("hello", model="alpha")).stage == "completed"
    assert (await attempts.ended("hello", model="beta")).stage == "completed"
    assert len(provider.requests) == 2
