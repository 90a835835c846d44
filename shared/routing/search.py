"""How the web is searched for a turn, and what that adds to it at most. Pure.

A model that can searches by itself; for any other a service is asked before it, and what was found
goes in with the question. The front holds by this and the worker captures by it.
"""

from typing import Final, Literal, NamedTuple

from shared.routing.price import NO_SEARCH, Searches
from shared.settings import ModelSettings
from shared.websearch import SearchSettings

# By the model itself, or by the service that the settings name.
Way = Literal["model", "service"]

# How often a model may search for one answer.
MODEL_SEARCHES_MAX: Final = 3
# What a result takes of the window at most, as estimated: title, address and snippet.
RESULT_TOKENS_MAX: Final = 300
# What is said around the results.
_FRAME_TOKENS: Final = 250


class Terms(NamedTuple):
    """What a search adds: tokens of results that go in, and searches to be paid for."""

    input_tokens: int = 0
    searches: Searches = NO_SEARCH


NONE: Final = Terms()


def can(model: ModelSettings) -> bool:
    """Tell whether a model searches the web by itself."""
    return "web_search" in model.capabilities


def way_of(model: ModelSettings) -> Way:
    """Return who searches when a model is to answer."""
    return "model" if can(model) else "service"


def terms(model: ModelSettings, search: SearchSettings, way: Way) -> Terms:
    """Return what a search adds to a turn at most."""
    if way == "model":
        return Terms(0, Searches(MODEL_SEARCHES_MAX, model.search_rate))
    tokens = search.results_max * RESULT_TOKENS_MAX + _FRAME_TOKENS
    return Terms(tokens, Searches(1, search.rate))
