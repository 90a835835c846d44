"""Searches the web for a model that cannot, and adds the results to the system prompt.

Owns the one query, its single retry, and the count of an answer's searches: one of the service, or
as many as the model's upstream reports. No answer is generated without the search that was asked
for.
"""

import random
from typing import Final

import msgspec

from shared.errors import EXPIRED, ProviderError
from shared.routing import price
from shared.routing.search_estimate import estimate_search
from shared.settings import ModelSettings
from shared.wire import event as events
from shared.wire.message import Citation, Usage
from worker.outcome import Failed
from worker.run import Run
from worker.web_search.client import SearchClient
from worker.web_search.contract import Result, search_query
from worker.web_search.results_prompt import results_prompt

_CALLS_MAX: Final = 2
_BACKOFF_SECONDS: Final = 0.5
# If the service asks for a longer wait than this, the search fails.
_WAIT_SECONDS_MAX: Final = 2.0
_PROMPT_AND_RESULTS: Final = "\n\n"


async def search_web(run: Run) -> Failed | None:
    """Add the results to `run.system_prompt` and `run.citations`, if a service searches."""
    if run.searched_by != "service":
        return None
    assert run.dependencies.search_client is not None  # noqa: S101  `choose_model` asked
    run.writer.append_event(events.StageChanged("searching"), stage="searching")
    try:
        results = await _search_with_retry(run, run.dependencies.search_client)
    except ProviderError as error:
        return Failed(error.failure if run.seconds_left() > 0 else EXPIRED)
    run.searches = 1
    run.citations = [Citation(result.url, result.title) for result in results]
    parts = (run.system_prompt, results_prompt(results))
    run.system_prompt = _PROMPT_AND_RESULTS.join(part for part in parts if part)
    return None


async def _search_with_retry(run: Run, client: SearchClient) -> tuple[Result, ...]:
    """Return the results, with one retry if it may help. Raises ProviderError."""
    query, calls = search_query(run.user.content), 0
    while True:
        calls += 1
        try:
            return await client.search(query, max(0.0, run.seconds_left()))
        except ProviderError as error:
            delay = error.retry_after_seconds
            if delay is None:
                delay = random.uniform(0, _BACKOFF_SECONDS)  # noqa: S311  jitter, not a secret
            is_hopeless = error.retry == "never" or calls == _CALLS_MAX
            if is_hopeless or delay > min(_WAIT_SECONDS_MAX, run.seconds_left()):
                raise
        await run.dependencies.clock.sleep(delay)


def searches_max(run: Run, model: ModelSettings) -> price.Searches:
    """Return the searches that an answer of a model may have to pay for."""
    # A service has searched before the first round, which has paid for it.
    if run.searched_by is None or (run.searched_by == "service" and run.rounds.finished):
        return price.NO_SEARCH
    return estimate_search(model, run.dependencies.settings.search, run.searched_by).searches


def add_search_cost(run: Run, model: ModelSettings, usage: Usage) -> Usage:
    """Return the usage with its searches; the price is rounded up once, for the whole."""
    searches = searches_made(run, model)
    if searches is price.NO_SEARCH:
        return usage
    return msgspec.structs.replace(
        usage,
        searches=searches.count,
        search_cost=price.search_cost(searches),
        cost=price.usage_cost(model, usage, searches),
    )


def searches_made(run: Run, model: ModelSettings) -> price.Searches:
    """Return the searches of the present call of a model so far.

    An upstream that cites pages has searched, even if it reports no searches.
    """
    if run.searched_by is None:
        return price.NO_SEARCH
    by_model = run.searched_by == "model"
    rate = model.search_rate if by_model else run.dependencies.settings.search.rate
    has_cited = len(run.citations) > len(run.rounds.citations)
    return price.Searches(run.searches or int(by_model and has_cited), rate)
