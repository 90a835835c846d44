"""Who searches the web for a turn, and what that adds to it at most. Pure.

A model with the capability searches by itself; for any other model a search service is asked first,
and its results become part of the prompt. The API holds credits by this estimate, the worker
charges by it.
"""

from typing import Final, Literal, NamedTuple

from shared.routing.price import NO_SEARCH, Searches
from shared.search_settings import SearchSettings
from shared.settings import ModelSettings

# The model itself, or the service that the settings name.
SearchProvider = Literal["model", "service"]

# How often a model may search for one answer.
MODEL_SEARCHES_MAX: Final = 3
# Estimated tokens of one result: title, address and snippet.
RESULT_TOKENS_MAX: Final = 300
# Estimated tokens of the text around the results.
_WRAPPING_TOKENS: Final = 250


class SearchEstimate(NamedTuple):
    """What a search adds: input tokens of results, and searches to pay for."""

    input_tokens: int = 0
    searches: Searches = NO_SEARCH


NONE: Final = SearchEstimate()


def can_search(model: ModelSettings) -> bool:
    """Tell whether a model searches the web by itself."""
    return "web_search" in model.capabilities


def search_provider(model: ModelSettings) -> SearchProvider:
    """Return who searches when a model answers."""
    return "model" if can_search(model) else "service"


def estimate_search(
    model: ModelSettings, search: SearchSettings, provider: SearchProvider
) -> SearchEstimate:
    """Return what a search adds to a turn at most."""
    if provider == "model":
        return SearchEstimate(0, Searches(MODEL_SEARCHES_MAX, model.search_rate))
    tokens = search.results_max * RESULT_TOKENS_MAX + _WRAPPING_TOKENS
    return SearchEstimate(tokens, Searches(1, search.rate))
