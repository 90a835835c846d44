"""A model that searches the web itself, and a route that searches in one way throughout."""

import msgspec

from shared.routing import price
from shared.wire.message import Citation
from tests.support.chat_completions import Request, ScriptedAnswer
from tests.support.scripted_provider import ScriptedProvider, by_words
from tests.worker.front import GRANT, Front
from tests.worker.providers.upstream import Upstream
from tests.worker.search_scenes import (
    CITED,
    SEARCH,
    change,
    engine_fixture,
    kept,
    searching_fixture,
    system_of,
)
from tests.worker.single_attempts import Attempts

__all__ = ["engine_fixture", "searching_fixture"]


def _asked(provider: ScriptedProvider) -> list[str]:
    return [str(request.body["model"]).removeprefix("upstream-") for request in provider.requests]


async def test_model_that_searches_is_asked_to_and_no_service_is(
    searching: Attempts, provider: ScriptedProvider, engine: Upstream
) -> None:
    change(searching, {"capabilities": ("web_search",), "search_rate": 10.0})
    provider.script.append(ScriptedAnswer(text="Two", pages=(("https://c.example", "C"),)))
    ended = await searching.ended(features=SEARCH, hold=10_000_000)
    assert provider.requests[0].body["web_search_options"] == {}
    assert (engine.lines, ended.text) == ([], "Two")
    assert kept(ended).citations == (Citation("https://c.example", "C"),)
    usage = kept(ended).usage
    assert usage is not None
    assert (usage.searches, usage.search_cost) == (1, 1_000_000)
    searches = price.Searches(1, 10.0)
    cost = price.cost(
        searching.settings.models[0], usage.input_tokens, usage.output_tokens, searches
    )
    assert ended.captured == usage.cost == cost


async def test_model_that_cites_nothing_has_not_searched(attempts: Attempts) -> None:
    change(attempts, {"capabilities": ("web_search",), "search_rate": 10.0})
    ended = await attempts.ended(features=SEARCH)
    usage = kept(ended).usage
    assert usage is not None
    assert (usage.searches, usage.search_cost) == (0, 0)
    assert ended.captured == usage.cost < 1_000_000


async def test_model_that_searches_is_not_asked_to_unless_the_turn_asks(
    attempts: Attempts, provider: ScriptedProvider
) -> None:
    change(attempts, {"capabilities": ("web_search",)})
    await attempts.ended()
    assert "web_search_options" not in provider.requests[0].body


async def test_pages_of_a_call_that_failed_are_not_those_of_the_next(
    attempts: Attempts, provider: ScriptedProvider
) -> None:
    change(attempts, {"capabilities": ("web_search",)})
    cut = ScriptedAnswer(text="", pages=(("https://lost.example", "Lost"),), has_done=False)
    whole = ScriptedAnswer(text="Two", pages=(("https://c.example", "C"),))
    provider.script.extend([msgspec.structs.replace(cut, cut_bytes=600), whole])
    ended = await attempts.ended(features=SEARCH)
    assert (len(provider.requests), ended.text) == (2, "Two")
    assert kept(ended).citations == (Citation("https://c.example", "C"),)


async def test_without_a_service_only_a_model_that_searches_answers(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    ended = await attempts.ended(features=SEARCH)
    failure = kept(ended).failure
    assert failure is not None
    assert (failure.code, provider.requests) == ("NO_SUITABLE_MODEL", [])
    assert (await front.credit_totals()).balance == GRANT


async def test_first_model_that_searches_is_chosen_without_a_service(
    attempts: Attempts, provider: ScriptedProvider
) -> None:
    change(attempts, {}, {"capabilities": ("web_search",)})
    ended = await attempts.ended(features=SEARCH)
    assert (ended.stage, _asked(provider)) == ("completed", ["beta"])


async def test_pages_that_a_model_cites_unasked_are_reported_and_cost_nothing(
    attempts: Attempts, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(text="Two", pages=(("https://c.example", "C"),)))
    ended = await attempts.ended()
    assert kept(ended).citations == (Citation("https://c.example", "C"),)
    usage = kept(ended).usage
    assert usage is not None
    assert (usage.searches, usage.search_cost) == (0, 0)


async def test_pages_that_a_model_cites_beside_a_service_s_take_no_number(
    searching: Attempts, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(text="Two [1]", pages=(("https://c.example", "C"),)))
    ended = await searching.ended(features=SEARCH)
    assert kept(ended).citations == CITED
    usage = kept(ended).usage
    assert usage is not None
    assert usage.searches == 1


# A route searches in one way


def _alpha_fails(provider: ScriptedProvider) -> None:
    def say(request: Request) -> ScriptedAnswer:
        is_first = request.body["model"] == "upstream-alpha"
        return ScriptedAnswer(status=401) if is_first else by_words(request)

    provider.answer = say


async def test_route_by_service_stays_one_and_keeps_what_was_found(
    searching: Attempts, provider: ScriptedProvider, engine: Upstream
) -> None:
    change(searching, {}, {"context_window": 8192, "capabilities": ("web_search",)})
    _alpha_fails(provider)
    ended = await searching.ended(features=SEARCH, hold=10_000_000)
    assert (ended.stage, _asked(provider)) == ("completed", ["alpha", "beta"])
    assert system_of(provider.requests[0]) == system_of(provider.requests[1])
    assert "web_search_options" not in provider.requests[1].body
    assert (len(engine.lines), kept(ended).citations) == (1, CITED)


async def test_route_by_service_has_no_model_that_the_results_do_not_fit(
    searching: Attempts, provider: ScriptedProvider
) -> None:
    # It searches by itself, so its circuit was closed.
    change(searching, {}, {"context_window": 512, "capabilities": ("web_search",)})
    _alpha_fails(provider)
    ended = await searching.ended(features=SEARCH, hold=10_000_000)
    assert (ended.stage, _asked(provider)) == ("failed", ["alpha"])


async def test_route_of_models_that_search_has_no_other(
    searching: Attempts, provider: ScriptedProvider, engine: Upstream
) -> None:
    change(searching, {"capabilities": ("web_search",)}, {"context_window": 8192})
    _alpha_fails(provider)
    ended = await searching.ended(features=SEARCH, hold=10_000_000)
    assert (ended.stage, _asked(provider), engine.lines) == ("failed", ["alpha"], [])


async def test_route_of_models_that_search_goes_on_to_the_next(
    searching: Attempts, provider: ScriptedProvider
) -> None:
    change(searching, {"capabilities": ("web_search",)}, {"capabilities": ("web_search",)})
    _alpha_fails(provider)
    ended = await searching.ended(features=SEARCH, hold=10_000_000)
    assert (ended.stage, _asked(provider)) == ("completed", ["alpha", "beta"])
    assert all(each.body["web_search_options"] == {} for each in provider.requests)
