"""Asks a provider for its list of models, to see whether it can be reached and accepts the key.

Owns the request, which costs nothing, and the sentence about its result. Refuses to print the key
or any text of the provider's answer. Limit: a few vendors show their list to anybody, so that a
wrong key is only noticed when a message is sent.
"""

import asyncio
from collections.abc import Collection
from typing import Any, Final

import httpx

from shared.settings import ProviderSettings, Secret

_SECONDS_MAX: Final = 10.0
_OK: Final = 200
_KEY_REFUSED: Final = frozenset({401, 403})
# Of each dialect: path of the list, header of the key, format of that header, other headers.
_LIST_REQUESTS: Final = {
    "openai": ("models", "authorization", "Bearer {}", {}),
    "anthropic": ("models?limit=1000", "x-api-key", "{}", {"anthropic-version": "2023-06-01"}),
    "gemini": ("models?pageSize=1000", "x-goog-api-key", "{}", {}),
}


async def check_provider(
    http: httpx.AsyncClient,
    provider: ProviderSettings,
    key: Secret | None,
    upstreams: Collection[str],
) -> tuple[bool, str]:
    """Request the list; return whether it succeeded, and a sentence about the result."""
    path, header, value_format, headers = _LIST_REQUESTS[provider.dialect]
    if key is not None:
        headers = headers | {header: value_format.format(key.reveal())}
    try:
        async with asyncio.timeout(_SECONDS_MAX):
            answer = await http.get(f"{provider.base_url.rstrip('/')}/{path}", headers=headers)
    except TimeoutError:
        return False, f"did not answer within {_SECONDS_MAX:.0f} s"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return False, f"cannot be reached ({type(error).__name__})"
    if answer.status_code in _KEY_REFUSED:
        return False, f"refuses the key (status {answer.status_code})"
    if answer.status_code != _OK:
        return False, f"answered with status {answer.status_code}"
    return True, _describe_list(answer, upstreams)


def _describe_list(answer: httpx.Response, upstreams: Collection[str]) -> str:
    """Name our models that the list lacks; a list that cannot be parsed counts as complete."""
    listed = _names_in(answer)
    missing = sorted(set(upstreams) - listed)
    if not listed or not missing:
        return "ok"
    return f"ok, but does not list {', '.join(missing)}"


def _names_in(answer: httpx.Response) -> set[str]:
    try:
        decoded: Any = answer.json()
    except ValueError:
        return set()
    if isinstance(decoded, dict):
        decoded = decoded.get("data") or decoded.get("models")
    entries = (
        [each for each in decoded if isinstance(each, dict)] if isinstance(decoded, list) else []
    )
    names = [str(entry.get("id") or entry.get("name")) for entry in entries]
    return {name.removeprefix("models/") for name in names}
