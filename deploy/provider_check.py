"""Whether a provider answers with the key that is here: one small request, for its list of models.

Owns the request and the sentence that tells what became of it. Refuses to show a key, or a word of
what an upstream answered. A list costs nothing; a few vendors show theirs to anybody, and only a
message then tells that a key is wrong.
"""

import asyncio
from collections.abc import Collection
from typing import Any, Final

import httpx

from shared.settings import ProviderSettings, Secret

_SECONDS_MAX: Final = 10.0
_OK: Final = 200
_KEY_REFUSED: Final = frozenset({401, 403})
# What each dialect calls its list, and the header that a key goes into.
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
    """Ask for the models; return whether it answered well, and a sentence."""
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
    """Say what of ours the list lacks; a list that cannot be read says nothing either way."""
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
