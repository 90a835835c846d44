"""How the web is searched for a turn, and what that adds to it at most. Pure.

A model that can searches by itself; for any other a service is asked before it, and what was found
goes in with the question. The front holds by this and the worker captures by it.
"""

from typing import Final, Literal, NamedTuple

from shared.routing.price import NO_SEARCH, Searches
from shared.search_settings import SearchSettings
from shared.settings import ModelSettings

# By the model itself, or by the service that the settings name.
SearchProvider = Literal["model", "service"]

# How often a model may search for one answer.
MODEL_SEARCHES_MAX: Final = 3
# What a result takes of the window at most, as estimated: title, address and snippet.
RESULT_TOKENS_MAX: Final = 300
# What is said around the results.
_WRAPPING_TOKENS: Final = 250


class SearchEstimate(NamedTuple):
    """What a search adds: tokens of results that go in, and searches to be paid for."""

    input_tokens: int = 0
    searches: Searches = NO_SEARCH


NONE: Final = SearchEstimate()


def can_search(model: ModelSettings) -> bool:
    """Tell whether a model searches the web by itself."""
    return "web_search" in model.capabilities


def search_provider(model: ModelSettings) -> SearchProvider:
    """Return who searches when a model is to answer."""
    return "model" if can_search(model) else "service"


def estimate_search(
    model: ModelSettings, search: SearchSettings, provider: SearchProvider
) -> SearchEstimate:
    """Return what a search adds to a turn at most."""
    if provider == "model":
        return SearchEstimate(0, Searches(MODEL_SEARCHES_MAX, model.search_rate))
    tokens = search.results_max * RESULT_TOKENS_MAX + _WRAPPING_TOKENS
    return SearchEstimate(tokens, Searches(1, search.rate))
