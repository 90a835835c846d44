"""Calls a URL that a caller named: a GET, or a POST. Nothing else opens URLs of strangers.

Owns the request: a host name is resolved once, every address is checked, and the connection goes to
one of exactly those addresses, with the name kept for TLS and `Host`; each redirect of a GET is
checked in the same way, and a POST follows none. Bytes, seconds and requests to one host are
bounded. Refuses proxies of the environment, cookies and compressed bodies. A caller learns only
that the fetch failed: a name with a private address and a name without addresses fail alike and
after the same time, so that nobody can explore a private network. Which addresses are public, and
what an operator allows beyond them, is decided in `shared/egress.py`.
"""

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address
from itertools import chain, zip_longest
from typing import Final, NamedTuple
from urllib.parse import urljoin

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from typing_extensions import override
from yarl import URL

from shared import egress
from shared.clock import Clock
from shared.egress import Address, EgressPolicy, Target
from shared.errors import EgressError
from shared.settings import EgressSettings
from shared.telemetry import logs
from worker.fetching.dns_resolver import DnsResolver
from worker.fetching.response_protocol import BoundedResponseProtocol

# From a host name and the account that asks, to its addresses. Raises OSError.
Resolve = Callable[[str, str], Awaitable[Sequence[Address]]]

# Ten images of one host, each behind one redirect there.
REQUESTS_PER_HOST_MAX: Final = 20

_REDIRECTS_MAX: Final = 3
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
# More addresses of one name would be further hosts that a stranger makes this worker connect to.
_ADDRESSES_MAX: Final = 4
# A refused name always takes this long, so that the time does not reveal the reason.
_NAME_REFUSED_SECONDS: Final = 1.0
_HEADERS: Final = {"accept-encoding": "identity", "user-agent": "pollux"}
_PIECE_BYTES: Final = 65_536
# Of an answer to a POST, after its status.
_ANSWER_SECONDS: Final = 1.0
_TRANSPORT_ERRORS: Final = (aiohttp.ClientError, OSError, UnicodeError)


class FetchBudget:
    """The budget of all fetches for one message: bytes, and requests to each host.

    A host is counted by its name and by its addresses, so that neither many names of one address
    nor one name with many addresses avoids the limit.
    """

    def __init__(self, account: str, bytes_max: int) -> None:
        self.account = account
        self._bytes_left = bytes_max
        self._requests: Counter[str] = Counter()

    def count_bytes(self, count: int) -> None:
        """Count received bytes. Raises EgressError ("too_large")."""
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise _too_large()

    def count_request(self, host: str, addresses: Sequence[Address]) -> None:
        """Count a request that is about to be made. Raises EgressError ("unreachable")."""
        places = {host.rstrip("."), *map(str, addresses)}
        if any(self._requests[place] >= REQUESTS_PER_HOST_MAX for place in places):
            raise _unreachable("The URL's host was called too often for one message.")
        self._requests.update(places)


class PostAnswer(NamedTuple):
    """What a POST was answered: the status, and the first bytes of the body."""

    status: int
    body: bytes


class UrlFetcher:
    """Calls URLs. `resolve` is called once for each host name of a URL or a redirect."""

    def __init__(
        self, settings: EgressSettings, clock: Clock, resolve: Resolve | None = None
    ) -> None:
        self._rules = EgressPolicy(settings.allow, settings.ports)
        self._clock = clock
        self._resolve = resolve or DnsResolver().addresses
        self._tls: ssl.SSLContext | None = None

    async def fetch(
        self, url: str, *, bytes_max: int, seconds: float, budget: FetchBudget
    ) -> bytes:
        """Return the body of a URL.

        Raises:
            EgressError: "forbidden", "too_large" or "encoded": a retry does not help;
                "unreachable": its `retry` says whether a retry may help.

        """
        try:
            async with asyncio.timeout(seconds):
                return await self._follow(url, bytes_max, budget)
        except TimeoutError:
            raise _unreachable("The URL did not answer in time.") from None
        except _TRANSPORT_ERRORS:
            raise _unreachable("The URL could not be reached.", is_passing=True) from None

    async def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        account: str,
        seconds: float,
        answer_bytes_max: int,
    ) -> PostAnswer:
        """Send a body and return the answer, of any status; a redirect is an answer like others.

        The status must be there in time. The body of the answer is read for a moment only.

        Raises:
            EgressError: "forbidden": the URL must not be called; "unreachable": there is no answer.

        """
        try:
            async with asyncio.timeout(seconds) as limit:
                target = egress.parse(url)
                addresses = await self._addresses(target, account)
                sent = {**_HEADERS, **headers}
                async with self._call("POST", target, addresses, sent, body) as answer:
                    limit.reschedule(None)
                    return PostAnswer(answer.status, await _read_start(answer, answer_bytes_max))
        except TimeoutError:
            raise _unreachable("The URL did not answer in time.", is_passing=True) from None
        except _TRANSPORT_ERRORS:
            raise _unreachable("The URL could not be reached.", is_passing=True) from None

    async def _follow(self, url: str, bytes_max: int, budget: FetchBudget) -> bytes:
        for _ in range(_REDIRECTS_MAX + 1):
            target = egress.parse(url)
            addresses = await self._addresses(target, budget.account)
            budget.count_request(target.host, addresses)
            async with self._call("GET", target, addresses, _HEADERS) as answer:
                if answer.status not in _REDIRECTS:
                    return await _read_body(answer, bytes_max, budget)
                url = _redirect_url(target, answer.headers.get("location", ""))
        raise _unreachable("The URL redirects too often.")

    @asynccontextmanager
    async def _call(
        self,
        method: str,
        target: Target,
        addresses: Sequence[Address],
        headers: Mapping[str, str],
        body: bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield the response of one request, on a new connection to a checked address."""
        if self._tls is None:
            self._tls = httpx.create_ssl_context(trust_env=False)
        connector = aiohttp.TCPConnector(
            resolver=_CheckedResolver(target, addresses),
            use_dns_cache=False,
            force_close=True,
            ssl=self._tls,
        )
        # The only way to another protocol; a test holds that it has its effect.
        connector._factory = partial(  # type: ignore[assignment]  # noqa: SLF001
            BoundedResponseProtocol, asyncio.get_running_loop()
        )
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=None),
            ) as session,
            session.request(
                method,
                URL(target.url, encoded=True),
                headers=headers,
                data=body,
                allow_redirects=False,
            ) as answer,
        ):
            yield answer

    async def _addresses(self, target: Target, account: str) -> Sequence[Address]:
        """Return the addresses at which a target may be reached. Raises EgressError.

        All addresses of a name are checked; the first few are used.
        """
        self._rules.check(target)
        if target.address is not None:
            return [target.address]
        began = self._clock.monotonic()
        try:
            addresses = await self._resolve(target.host, account)
            self._rules.check_addresses(target, addresses)
        except (EgressError, *_TRANSPORT_ERRORS) as error:
            # Logged for the operator, who may want to allow the name; the caller reads neither.
            reason = str(error) or type(error).__name__
            logs.logger().info("a URL's host is not called", reason=reason)
        else:
            return _first_of_each_family(addresses)
        passed = self._clock.monotonic() - began
        await self._clock.sleep(max(0.0, _NAME_REFUSED_SECONDS - passed))
        raise _unreachable("The URL's host cannot be called.")


class _CheckedResolver(AbstractResolver):
    """A resolver for aiohttp that knows one name, and only its checked addresses."""

    def __init__(self, target: Target, addresses: Sequence[Address]) -> None:
        self._host = target.host
        self._addresses = addresses

    @override
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if host != self._host or not self._addresses:
            raise OSError("no address was judged for this name")
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,  # noqa: PLR2004  its number is its name
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    @override
    async def close(self) -> None:
        """Nothing is open."""


def _first_of_each_family(addresses: Sequence[Address]) -> list[Address]:
    """Return the first addresses, alternating between IPv4 and IPv6."""
    fours = [address for address in addresses if isinstance(address, IPv4Address)]
    sixes = [address for address in addresses if isinstance(address, IPv6Address)]
    turns = chain.from_iterable(zip_longest(fours, sixes))
    return [address for address in turns if address is not None][:_ADDRESSES_MAX]


def _redirect_url(target: Target, location: str) -> str:
    """Return the URL of a redirect. Raises EgressError ("forbidden") if it is no URL."""
    try:
        return urljoin(target.url, location)
    except ValueError:
        raise egress.forbidden("The URL redirects to what cannot be read.") from None


async def _read_body(answer: aiohttp.ClientResponse, bytes_max: int, budget: FetchBudget) -> bytes:
    """Return the body of a success. Raises EgressError."""
    if answer.status != HTTPStatus.OK:
        is_passing = answer.status >= 500 or answer.status in {408, 429}  # noqa: PLR2004  statuses
        raise _unreachable("The URL answers with an error.", is_passing=is_passing)
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        raise EgressError("The URL answers in a compressed form.", "encoded")
    if (answer.content_length or 0) > bytes_max:
        raise _too_large()
    content = bytearray()
    async for piece in answer.content.iter_chunked(_PIECE_BYTES):
        budget.count_bytes(len(piece))
        content += piece
        if len(content) > bytes_max:
            raise _too_large()
    return bytes(content)


async def _read_start(answer: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """Return the first bytes of a body, as far as they come at once."""
    content = bytearray()
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(_ANSWER_SECONDS):
            while len(content) < bytes_max and (piece := await answer.content.readany()):
                content += piece
    return bytes(content[:bytes_max])


def _too_large() -> EgressError:
    return EgressError("The body of the URL is too large.", "too_large")


def _unreachable(sentence: str, *, is_passing: bool = False) -> EgressError:
    return EgressError(sentence, "unreachable", retry="soon" if is_passing else "never")
