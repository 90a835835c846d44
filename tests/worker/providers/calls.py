"""Calls of an adapter, and their results.

Owns the request, which is always the same, and the timeouts of the adapters under test.
"""

import time
from typing import Final

import msgspec

from shared.errors import ProviderError
from shared.settings import ProviderSettings, Secret
from shared.wire.conversation import CallPart
from shared.wire.message import Citation
from tests.worker.providers.dialect_row import MODEL, Dialect
from tests.worker.providers.upstream import Script, Upstream
from worker.providers import http_provider as provider
from worker.providers.aiohttp_transport import Transport
from worker.providers.contract import (
    ChatRequest,
    Ended,
    KeepAlive,
    Part,
    Provider,
    ReportedUsage,
    Text,
    text_message,
)

PATIENT_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 0.3
REQUEST: Final = ChatRequest(
    model=MODEL, messages=[text_message("user", "How many bears?")], max_tokens=64
)
FIRST_SECONDS: Final = 0.4
# Of a model that is not waited for long.
BRIEF_REQUEST: Final = msgspec.structs.replace(
    REQUEST, model=msgspec.structs.replace(MODEL, first_token_seconds=FIRST_SECONDS)
)


class Received:
    """The result of one call: its parts, its signs of life, its error, its duration."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.signs_of_life = 0
        self.error: ProviderError | None = None
        self.seconds = 0.0

    @property
    def text(self) -> str:
        """All of the text."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def used(self) -> ReportedUsage | None:
        """The usage that the upstream reported, or None."""
        found = [part for part in self.parts if isinstance(part, ReportedUsage)]
        return found[-1] if found else None

    @property
    def called(self) -> list[CallPart]:
        """The tools that were called."""
        return [part for part in self.parts if isinstance(part, CallPart)]

    @property
    def cited(self) -> list[Citation]:
        """The pages that the answer cites."""
        return [part for part in self.parts if isinstance(part, Citation)]

    @property
    def reasons(self) -> list[str]:
        """The finish reasons: one, if it ended."""
        return [part.reason for part in self.parts if isinstance(part, Ended)]

    @property
    def fault(self) -> tuple[str, str, str]:
        """The category and code of the error, and whether a retry helps."""
        assert self.error is not None, self.parts
        assert self.error.failure.provider == "up"
        assert self.error.failure.retryable == (self.error.retry != "never")
        assert self.error.failure.message.endswith(".")
        return self.error.failure.category, self.error.failure.code, self.error.retry


class Call:
    """An adapter of one dialect and the upstream it is connected to."""

    def __init__(
        self,
        dialect: Dialect,
        upstream: Upstream,
        seconds: float = PATIENT_SECONDS,
        request: ChatRequest = REQUEST,
    ) -> None:
        self.dialect = dialect
        self.upstream = upstream
        self.provider = connect(dialect, upstream.url, seconds)
        self._request = request

    async def __call__(
        self, script: Script | None = None, request: ChatRequest | None = None
    ) -> Received:
        """Make one call and read it to the end."""
        if script is not None:
            self.upstream.script = script
        return await listen(self.provider, request or self._request)


def connect(
    dialect: Dialect,
    url: str,
    seconds: float = PATIENT_SECONDS,
    lines: Transport | None = None,
) -> provider.HttpProvider:
    """Return an adapter of an upstream at `url`, with these timeouts."""
    settings = ProviderSettings(
        name="up", base_url=url, connect_seconds=seconds, idle_seconds=seconds
    )
    return provider.HttpProvider(dialect.words, settings, Secret("sk-wholly-secret"), lines)


async def listen(asked: Provider, request: ChatRequest = REQUEST) -> Received:
    """Read one answer to its end; any error but a ProviderError is a fault of the adapter."""
    received, began = Received(), time.monotonic()
    try:
        async for part in asked.stream(request):
            if isinstance(part, KeepAlive):
                received.signs_of_life += 1
            else:
                received.parts.append(part)
    except ProviderError as error:
        received.error = error
    received.seconds = time.monotonic() - began
    return received
