"""Where a URL that a caller or a model named may lead: pure decisions, no socket.

Owns how such a URL is read, which addresses are public, and what an operator allows beyond them.
Refuses whatever could be read in two ways: what comes out of `read` is in the one form that every
reader understands alike.

DESIGN. An address is judged by a table of our own, and by all that it carries: an IPv4 address
inside an IPv6 one is where a gateway would go. Of IPv6 only what is given out for unicast is public
at all, so what nobody has thought of yet is not.
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
# A last label like these makes resolvers take the whole for an address, in one of many old forms.
_NUMERIC_LABEL: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DOTTED_QUAD: Final = re.compile(r"(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2})){3}")
# Already quoted is left as it is; what no request line may hold is quoted.
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
# Inside it: what is for protocols (Teredo among them), for documents, or 6to4.
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
    """Where a URL leads: `host` is a name in ASCII or an address, `path` begins with a slash."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def address(self) -> Address | None:
        """The host, if it is an address; None for a name."""
        return (
            None
            if _NAME.fullmatch(self.host) and not _looks_like_ipv4(self.host)
            else _parse_ip(self.host)
        )

    @property
    def url(self) -> str:
        """The URL in its one form."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"


def read(url: str) -> Target:
    """Return where a URL leads. Raises EgressError ("forbidden") for what no URL of ours may be."""
    if not 0 < len(url) <= URL_CHARACTERS_MAX:
        raise forbidden(f"The URL must have 1 to {URL_CHARACTERS_MAX} characters.")
    if any(character <= " " or character in '\x7f\\<>"^`{}' for character in url):
        raise forbidden("The URL has characters that no URL may have.")
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
    """Return a host in its one form: a name in ASCII, or an address as it is written today."""
    if is_literal:
        address = _parse_ip(host)
        if isinstance(address, IPv6Address) and address.scope_id is None:
            return str(address)
        raise forbidden("The URL's host is no address.")
    try:
        name = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        raise forbidden("The URL's host is no name.") from None
    name = name.lower()
    if _looks_like_ipv4(name):
        # 0177.0.0.1, 2130706433 and 127.1 are addresses to some resolvers, and to us none.
        if _DOTTED_QUAD.fullmatch(name) and _parse_ip(name) is not None:
            return name
        raise forbidden("The URL's host is no address.")
    if len(name) > _NAME_CHARACTERS_MAX or not _NAME.fullmatch(name):
        raise forbidden("The URL's host is no name.")
    return name


def _looks_like_ipv4(name: str) -> bool:
    return bool(_NUMERIC_LABEL.fullmatch(name.rstrip(".").rpartition(".")[2]))


def _parse_ip(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def embedded_ipv4(address: Address) -> tuple[IPv4Address, ...]:
    """Return the IPv4 addresses that an IPv6 address has inside, in all forms that carry one."""
    if isinstance(address, IPv4Address):
        return ()
    bits = int(address)
    if address in _MAPPED or address in _NAT64:
        return (IPv4Address(bits & _BITS_32),)
    if address in _LOCAL_NAT64:
        # The prefix may have any length there; 48 puts an empty byte in the middle of the address.
        middle = (bits >> 64 & 0xFFFF) << 16 | (bits >> 40 & 0xFFFF)
        return IPv4Address(middle), IPv4Address(bits & _BITS_32)
    if address in _SIX_TO_FOUR:
        return (IPv4Address(bits >> 80 & _BITS_32),)
    if address in _TEREDO:
        return IPv4Address(bits >> 64 & _BITS_32), IPv4Address(~bits & _BITS_32)
    return ()


def is_public(address: Address) -> bool:
    """Tell whether an address is global and unicast, and all that it carries."""
    if isinstance(address, IPv4Address):
        return not any(address in private for private in _PRIVATE_4)
    if not all(map(is_public, embedded_ipv4(address))):
        return False
    if address in _MAPPED or address in _NAT64:
        return True
    return address in _UNICAST_6 and not any(address in private for private in _PRIVATE_6)


class EgressPolicy:
    """What an operator decided: networks and names that are allowed though private, and ports."""

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
        """Refuse a target that nobody need resolve. Raises EgressError."""
        if target.port not in self._ports:
            raise forbidden("The URL's port is not one that is called.")
        if target.address is not None:
            self.check_addresses(target, [target.address])

    def check_addresses(self, target: Target, addresses: Iterable[Address]) -> None:
        """Refuse a target of whose addresses one is not allowed. Raises EgressError."""
        if target.host.rstrip(".") in self._names:
            return
        if not all(is_public(address) or self._allows(address) for address in addresses):
            raise forbidden("The URL leads to an address that is not public.")

    def _allows(self, address: Address) -> bool:
        """Tell whether an address stands in a network that is meant; a mapped one is its own."""
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


def faults(section: object) -> list[str]:
    """Return which entries of a table `[egress]` are a network by their looks alone.

    An `allow` that cannot be read at all is told of elsewhere.
    """
    found: list[str] = []
    with suppress(msgspec.ValidationError):
        table = section if isinstance(section, dict) else {}
        allow = msgspec.convert(table.get("allow", ()), tuple[HostOrNetwork, ...])
        found += [
            each for each in allow if _cannot_be_host_name(each) and _parse_network(each) is None
        ]
    return [f"egress.allow: {entry} is no network and no name of a host" for entry in found]


def _cannot_be_host_name(entry: str) -> bool:
    """Tell whether an entry can be no host's name: no URL's host would ever be one with it."""
    return "/" in entry or ":" in entry or _looks_like_ipv4(entry)


def _parse_network(entry: str) -> Network | None:
    try:
        return ip_network(entry, strict=False)
    except ValueError:
        return None


def forbidden(sentence: str) -> EgressError:
    """Return the refusal of a URL; the sentence names no address."""
    return EgressError(sentence, "forbidden")
