"""Decides whether a URL that a caller or a model named may be called. Pure: opens no socket.

Owns how such a URL is parsed, which addresses are public, and what an operator allows beyond them.
Refuses every URL that two parsers could read differently: `parse` returns it in one normal form.

DESIGN. Addresses are judged by a table of our own, together with every IPv4 address that they
embed, because a gateway would send packets there: `64:ff9b::a00:1` embeds 10.0.0.1 and is refused.
Of IPv6 only `2000::/3` (the unicast range) counts as public, so a range assigned later is refused
at first.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec

from shared.errors import EgressError
from shared.settings_types import HostOrNetwork

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

URL_CHARACTERS_MAX: Final = 2_048
_PORTS: Final = {"http": 80, "https": 443}
_NAME: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?")
_NAME_CHARACTERS_MAX: Final = 253
# With a last label like these, resolvers take the whole name for an IPv4 address in an old
# notation.
_NUMERIC_LABEL: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DOTTED_QUAD: Final = re.compile(r"(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2})){3}")
# Percent escapes stay as they are; characters that a request line must not hold are escaped.
_SAFE: Final = "%!$&'()*+,;=:@/?~-._[]|"

_PRIVATE_4: Final = tuple(
    map(
        IPv4Network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
            *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
            *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        ),
    )
)
_UNICAST_6: Final = IPv6Network("2000::/3")
# Ranges inside it for protocols (Teredo is one), documentation and 6to4.
_PRIVATE_6: Final = tuple(
    map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
)
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_LOCAL_NAT64: Final = IPv6Network("64:ff9b:1::/48")
_SIX_TO_FOUR: Final = IPv6Network("2002::/16")
_TEREDO: Final = IPv6Network("2001::/32")
_BITS_32: Final = 0xFFFF_FFFF


class Target(NamedTuple):
    """A parsed URL: `host` is an ASCII name or an address, `path` begins with a slash."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def address(self) -> Address | None:
        """The host where it is an address; None for a name."""
        return (
            None
            if _NAME.fullmatch(self.host) and not _looks_like_ipv4(self.host)
            else _parse_ip(self.host)
        )

    @property
    def url(self) -> str:
        """The URL in its normal form."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"


def parse(url: str) -> Target:
    """Parse a URL into its normal form. Raises EgressError ("forbidden") for a refused one."""
    if not 0 < len(url) <= URL_CHARACTERS_MAX:
        raise forbidden(f"The URL must have 1 to {URL_CHARACTERS_MAX} characters.")
    if any(character <= " " or character in '\x7f\\<>"^`{}' for character in url):
        raise forbidden("The URL has characters that a URL must not have.")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise forbidden("The URL cannot be read.") from None
    if parts.scheme not in _PORTS:
        raise forbidden("The URL must begin with http:// or https://.")
    if "@" in parts.netloc:
        raise forbidden("The URL must be without credentials.")
    path = quote(parts.path or "/", safe=_SAFE)
    if parts.query:
        path += "?" + quote(parts.query, safe=_SAFE)
    is_literal = parts.netloc.startswith("[")
    port = _PORTS[parts.scheme] if port is None else port
    return Target(parts.scheme, _normalise_host(host, is_literal=is_literal), port, path)


def _normalise_host(host: str, *, is_literal: bool) -> str:
    """Return a host in its normal form: an ASCII name, or an address in today's notation."""
    if is_literal:
        address = _parse_ip(host)
        if isinstance(address, IPv6Address) and address.scope_id is None:
            return str(address)
        raise forbidden("The URL's host is not a valid address.")
    try:
        name = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        raise forbidden("The URL's host is not a valid name.") from None
    name = name.lower()
    if _looks_like_ipv4(name):
        # Some resolvers take 0177.0.0.1, 2130706433 and 127.1 for addresses; all three are refused.
        if _DOTTED_QUAD.fullmatch(name) and _parse_ip(name) is not None:
            return name
        raise forbidden("The URL's host is not a valid address.")
    if len(name) > _NAME_CHARACTERS_MAX or not _NAME.fullmatch(name):
        raise forbidden("The URL's host is not a valid name.")
    return name


def _looks_like_ipv4(name: str) -> bool:
    return bool(_NUMERIC_LABEL.fullmatch(name.rstrip(".").rpartition(".")[2]))


def _parse_ip(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def embedded_ipv4(address: Address) -> tuple[IPv4Address, ...]:
    """Return the IPv4 addresses that an IPv6 address embeds, in every known form of embedding."""
    if isinstance(address, IPv4Address):
        return ()
    bits = int(address)
    if address in _MAPPED or address in _NAT64:
        return (IPv4Address(bits & _BITS_32),)
    if address in _LOCAL_NAT64:
        # A local NAT64 prefix may be shorter or longer; with /48 the IPv4 address is split around a
        # zero byte.
        middle = (bits >> 64 & 0xFFFF) << 16 | (bits >> 40 & 0xFFFF)
        return IPv4Address(middle), IPv4Address(bits & _BITS_32)
    if address in _SIX_TO_FOUR:
        return (IPv4Address(bits >> 80 & _BITS_32),)
    if address in _TEREDO:
        return IPv4Address(bits >> 64 & _BITS_32), IPv4Address(~bits & _BITS_32)
    return ()


def is_public(address: Address) -> bool:
    """Tell whether an address is global unicast, and so is every address that it embeds."""
    if isinstance(address, IPv4Address):
        return not any(address in private for private in _PRIVATE_4)
    if not all(map(is_public, embedded_ipv4(address))):
        return False
    if address in _MAPPED or address in _NAT64:
        return True
    return address in _UNICAST_6 and not any(address in private for private in _PRIVATE_6)


class EgressPolicy:
    """What the operator allows: private networks, host names, and ports."""

    def __init__(self, allow: Iterable[str], ports: Iterable[int]) -> None:
        self._ports = frozenset(ports)
        self._networks: list[Network] = []
        self._names: set[str] = set()
        for entry in allow:
            network = _parse_network(entry)
            if network is None:
                self._names.add(entry.lower())
            else:
                self._networks.append(network)

    def check(self, target: Target) -> None:
        """Refuse a target that needs no name resolution to be refused. Raises EgressError."""
        if target.port not in self._ports:
            raise forbidden("The URL's port is not allowed.")
        if target.address is not None:
            self.check_addresses(target, [target.address])

    def check_addresses(self, target: Target, addresses: Iterable[Address]) -> None:
        """Refuse a target if any of its addresses is not allowed. Raises EgressError."""
        if target.host.rstrip(".") in self._names:
            return
        if not all(is_public(address) or self._allows(address) for address in addresses):
            raise forbidden("The URL leads to an address that is not public.")

    def _allows(self, address: Address) -> bool:
        """Tell whether an address is in an allowed network; an IPv4-mapped one counts as IPv4."""
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


def faults(section: object) -> list[str]:
    """Return which entries of `egress.allow` can be neither a network nor a host name.

    A list that cannot be read at all is reported by the check of its type.
    """
    found: list[str] = []
    with suppress(msgspec.ValidationError):
        table = section if isinstance(section, dict) else {}
        allow = msgspec.convert(table.get("allow", ()), tuple[HostOrNetwork, ...])
        found += [
            each for each in allow if _cannot_be_host_name(each) and _parse_network(each) is None
        ]
    return [f"egress.allow: {entry} is neither a network nor a host name" for entry in found]


def _cannot_be_host_name(entry: str) -> bool:
    """Tell whether an entry has the form of a network, and so never equals a URL's host name."""
    return "/" in entry or ":" in entry or _looks_like_ipv4(entry)


def _parse_network(entry: str) -> Network | None:
    try:
        return ip_network(entry, strict=False)
    except ValueError:
        return None


def forbidden(sentence: str) -> EgressError:
    """Return the refusal of a URL; the sentence must name no address."""
    return EgressError(sentence, "forbidden")
