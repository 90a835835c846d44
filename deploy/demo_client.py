"""HTTP client of the demo: prints each request and reply, and retries failures.

A lost connection, a 429 and a 502 to 504 are retried with the same Idempotency-Key, so that no
message is accepted twice. Refuses to know the system behind the address.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import httpx

from deploy.retry_timer import RETRIED_STATUSES, RetryTimer, retry_after
from shared import ids
from shared.clock import Clock
from shared.errors import UnavailableError

_SHOWN_KEY_CHARACTERS: Final = 15
_POLL_SECONDS: Final = 0.1
_TIMEOUT_SECONDS: Final = 60.0

Json = dict[str, Any]


class DemoClient:
    """A client with one API key. `print_line` receives every line that is printed."""

    def __init__(
        self, http: httpx.AsyncClient, api_key: str, print_line: Callable[[str], None], clock: Clock
    ) -> None:
        self._http = http
        self._key = api_key
        self._print_line = print_line
        self._clock = clock

    async def post(self, path: str, body: Mapping[str, Any]) -> Json:
        """Post a body under an Idempotency-Key of its own and return the reply."""
        return await self._call("POST", path, body, {"Idempotency-Key": ids.new_id()})

    async def read(self, path: str) -> Json:
        """Get a path and return the reply."""
        return await self._call("GET", path, None, {})

    async def poll_until(
        self, path: str, is_wanted: Callable[[Json], bool], seconds: float
    ) -> None:
        """Get a path, without printing, until the reply is as wanted or the time is over."""
        deadline = self._clock.monotonic() + seconds
        while self._clock.monotonic() < deadline:
            with suppress(httpx.TransportError):
                reply = await self._http.get(path, headers={"X-API-Key": self._key})
                if reply.is_success and is_wanted(reply.json()):
                    return
            await self._clock.sleep(_POLL_SECONDS)

    async def pause(self, seconds: float) -> None:
        """Wait, as long as a reply's poll hint says."""
        await self._clock.sleep(seconds)

    async def _call(
        self, verb: str, path: str, body: Mapping[str, Any] | None, headers: dict[str, str]
    ) -> Json:
        self._show_request(verb, path, body, headers)
        retry_timer = RetryTimer(
            self._clock,
            lambda problem: self._print_line(f"< {problem}; the same request is sent again"),
            str(self._http.base_url).rstrip("/"),
        )
        while True:
            pause_seconds = 0.0
            started = self._clock.monotonic()
            try:
                reply = await self._http.request(
                    verb,
                    path,
                    json=body,
                    headers={"X-API-Key": self._key, **headers},
                    timeout=_TIMEOUT_SECONDS,
                )
            except httpx.TransportError as error:
                problem = f"no reply ({type(error).__name__})"
            else:
                if reply.status_code not in RETRIED_STATUSES:
                    return self._show_reply(reply, self._clock.monotonic() - started)
                problem = f"{reply.status_code} {reply.reason_phrase}"
                pause_seconds = retry_after(reply)
            await retry_timer.pause(problem, pause_seconds)

    def _show_request(
        self, verb: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> None:
        self._print_line(f"> {verb} {path}")
        self._print_line(f"> X-API-Key: {self._key[:_SHOWN_KEY_CHARACTERS]}...")
        for name, value in headers.items():
            self._print_line(f"> {name}: {value}")
        if body is not None:
            self._print_line(_indented(body))

    def _show_reply(self, reply: httpx.Response, seconds: float) -> Json:
        self._print_line(f"< {reply.status_code} {reply.reason_phrase} ({seconds * 1000:.0f} ms)")
        content: Json = reply.json()
        self._print_line(_indented(content))
        self._print_line("")
        if reply.is_error:
            raise UnavailableError(f"The API refused: {content.get('error', reply.status_code)}")
        return content


def _indented(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    return "\n".join(f"  {line}" for line in text.splitlines())
