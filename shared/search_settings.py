"""The settings table `[search]`: the service that searches the web for models that cannot.

Owns its shape, its defaults and the checks inside it. A model that searches by itself needs none of
it.
"""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from shared.settings_types import HttpUrl, Section

SearchService = Literal["searxng", "brave", "tavily"]

# The field that each service requires.
_REQUIRED: Final = {"searxng": "base_url", "brave": "api_key_env", "tavily": "api_key_env"}


class SearchSettings(Section, frozen=True, kw_only=True):
    """The search service, if any. `rate` is US dollars per 1,000 searches.

    `api_key_env` names the variable that holds the service's key; `base_url` has a default for all
    services but SearXNG, which every operator hosts.
    """

    service: SearchService | None = None
    base_url: HttpUrl | None = None
    api_key_env: str | None = None
    results_max: Annotated[int, Meta(ge=1, le=20)] = 5
    seconds: Annotated[float, Meta(gt=0, le=60)] = 8.0
    rate: Annotated[float, Meta(ge=0, le=100_000)] = 0.0


def faults(section: object) -> list[str]:
    """Return what the table `[search]` lacks for the service that it names."""
    table: dict[str, Any] = section if isinstance(section, dict) else {}
    needed = _REQUIRED.get(str(table.get("service")))
    if needed is None or table.get(needed):
        return []
    return [f"search.{needed}: is required by {table['service']}"]
