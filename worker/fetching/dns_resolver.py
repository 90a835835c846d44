"""Resolves host names: from the machine's hosts file, else from DNS, without threads.

Owns the time limit of a look-up, and how many an account may have under way. Refuses to judge
addresses: `shared/egress.py` does.

DESIGN. `getaddrinfo` blocks a thread while a name's servers are silent, so a few such names stop
every other look-up of the process. Here a look-up is two datagrams and a timer, and each account
has its own limit, since a forwarder such as dnsmasq drops queries beyond some 150 at a time. As
with `getaddrinfo`, the hosts file goes first, resolv.conf names the servers and search domains, and
both are read again when they change. Other sources of nsswitch.conf are not used.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Generic, TypeVar

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver
from dns.rdatatype import RdataType

from shared.egress import Address

Hosts = dict[str, list[Address]]
_Content = TypeVar("_Content")
_FileVersion = tuple[int, int, int] | None

_SECONDS: Final = 5.0
# After the addresses of one family, how long to wait for the other family (RFC 8305 says 0.05).
_OTHER_FAMILY_SECONDS: Final = 0.25
PER_ACCOUNT_MAX: Final = 16


class DnsResolver:
    """The resolver of a process; only tests pass other paths."""

    def __init__(
        self,
        *,
        hosts: Path = Path("/etc/hosts"),
        resolv_conf: Path = Path("/etc/resolv.conf"),
        port: int = 53,
    ) -> None:
        self._hosts = _CachedFile(hosts, _read_hosts)
        self._resolver = _CachedFile(resolv_conf, lambda path: _read_resolv_conf(path, port))
        self._account_limits = _AccountLimits(PER_ACCOUNT_MAX)

    async def addresses(self, name: str, account: str) -> list[Address]:
        """Return every address of a name. Raises OSError: there is none, or no server answers."""
        known = self._hosts.content().get(name.rstrip(".").lower())
        if known is not None:
            return known
        async with self._account_limits.acquired(account), asyncio.timeout(_SECONDS):
            try:
                return await _look_up(self._resolver.content(), name)
            except dns.exception.DNSException as error:
                raise OSError(f"no address: {type(error).__name__}") from None


class _AccountLimits:
    """Limits the look-ups under way of each account; further ones wait for their own account's."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._semaphores: dict[str, asyncio.Semaphore] = {}
        self._users: dict[str, int] = {}

    @asynccontextmanager
    async def acquired(self, account: str) -> AsyncIterator[None]:
        semaphore = self._semaphores.setdefault(account, asyncio.Semaphore(self._size))
        self._users[account] = self._users.get(account, 0) + 1
        try:
            async with semaphore:
                yield
        finally:
            self._users[account] -= 1
            if not self._users[account]:
                del self._users[account], self._semaphores[account]


class _CachedFile(Generic[_Content]):
    """The parsed content of a file, read again when the file has changed."""

    def __init__(self, path: Path, read: Callable[[Path], _Content]) -> None:
        self._path = path
        self._read = read
        self._version: _FileVersion = None
        self._content: _Content | None = None

    def content(self) -> _Content:
        version = self._stat()
        if self._content is None or version != self._version:
            self._content, self._version = self._read(self._path), version
        return self._content

    def _stat(self) -> _FileVersion:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def _read_hosts(path: Path) -> Hosts:
    """Return the addresses of each name in a hosts file; invalid lines are skipped."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return {}
    found: Hosts = {}
    for line in text.splitlines():
        first, *names = line.partition("#")[0].split() or [""]
        try:
            address = ip_address(first)
        except ValueError:
            continue
        for name in names:
            addresses = found.setdefault(name.rstrip(".").lower(), [])
            if address not in addresses:
                addresses.append(address)
    return found


def _read_resolv_conf(path: Path, port: int) -> dns.asyncresolver.Resolver:
    """Return a resolver as the file describes it. Raises DNSException if it names no server."""
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.port = port
    resolver.read_resolv_conf(path)
    resolver.lifetime = _SECONDS
    resolver.retry_servfail = True
    return resolver


async def _look_up(resolver: dns.asyncresolver.Resolver, name: str) -> list[Address]:
    """Look up both families at the same time. Raises DNSException and OSError."""
    lookups = [
        asyncio.create_task(_look_up_family(resolver, name, family))
        for family in (dns.rdatatype.A, dns.rdatatype.AAAA)
    ]
    try:
        done, waiting = await asyncio.wait(lookups, return_when=asyncio.FIRST_COMPLETED)
        if waiting:
            has_any = any(each.exception() is None and each.result() for each in done)
            await asyncio.wait(waiting, timeout=_OTHER_FAMILY_SECONDS if has_any else None)
    finally:
        for each in lookups:
            each.cancel()
        answers = await asyncio.gather(*lookups, return_exceptions=True)
    addresses = [address for answer in answers if isinstance(answer, list) for address in answer]
    if addresses:
        return addresses
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    raise OSError("the name has no address")


async def _look_up_family(
    resolver: dns.asyncresolver.Resolver, name: str, family: RdataType
) -> list[Address]:
    answer = await resolver.resolve(name, family, raise_on_no_answer=False, search=True)
    return [ip_address(record.address) for record in answer.rrset or ()]
