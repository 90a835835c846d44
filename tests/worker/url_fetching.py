"""A resolver with scripted answers, and server responses, for tests of the URL fetcher."""

import socket
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

import pytest

from shared.egress import Address
from shared.errors import EgressError
from shared.settings import EgressSettings
from tests.worker.providers.upstream import Line, Script, Upstream, whole
from tests.worker.single_attempts import ImpatientClock
from worker.fetching.url_fetcher import FetchBudget, Resolve, UrlFetcher

BYTES: Final = 10_000
PATIENT_SECONDS: Final = 10.0


class ScriptedResolver:
    """A resolver with scripted answers that records its queries."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)

    async def __call__(self, name: str, account: str) -> list[Address]:
        assert account == "ann"
        self.asked.append(name)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if not answer:
            raise socket.gaierror(socket.EAI_AGAIN, "not now")
        return [ip_address(each) for each in answer]


def settings_of(server: Upstream, *allow: str) -> EgressSettings:
    return EgressSettings(allow=allow, ports=(80, 443, server.port))


def url_fetcher_of(settings: EgressSettings, resolve: Resolve | None = None) -> UrlFetcher:
    return UrlFetcher(settings, ImpatientClock(), resolve)


async def fetch(
    url_fetcher: UrlFetcher,
    url: str,
    *,
    seconds: float = PATIENT_SECONDS,
    bytes_max: int = BYTES,
    budget: int = 1_000_000,
) -> bytes:
    return await url_fetcher.fetch(
        url, bytes_max=bytes_max, seconds=seconds, budget=FetchBudget("ann", budget)
    )


async def refused(url_fetcher: UrlFetcher, url: str, **bounds: float) -> EgressError:
    with pytest.raises(EgressError) as caught:
        await fetch(url_fetcher, url, **bounds)  # type: ignore[arg-type]  # each of its own kind
    # The error must not reveal where the URL led.
    assert "127.0.0" not in caught.value.message
    assert "10.0.0" not in caught.value.message
    return caught.value


def picture(text: bytes = b"picture") -> Script:
    return whole(text, content_type="image/png", content_length=str(len(text)))


def redirect(*locations: str, status: int = 302) -> Script:
    """Return a script that redirects each request to the next location, then always to the last."""
    left = list(locations)

    async def script(line: Line) -> None:
        await line.head(status=status, location=left.pop(0) if len(left) > 1 else left[0])

    return script
