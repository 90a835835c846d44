"""A DNS server on 127.0.0.1 with scripted records; for some names it stays silent.

Owns the socket and the recorded queries. Unknown names do not exist.
"""

import asyncio
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Self

import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.rdatatype import RdataType
from typing_extensions import override

from worker.fetching.dns_resolver import DnsResolver

# No answer at all, for one family or for both; no answer that helps.
SILENT: Final = "silent"
FAILS: Final = "fails"
# Followed by the name that it stands for.
ALIAS: Final = "alias "


class NameServer(asyncio.DatagramProtocol):
    """The server. An asynchronous context manager; `records` may change while it listens."""

    def __init__(self, **records: tuple[str, ...]) -> None:
        self.records = {name.replace("_", "."): places for name, places in records.items()}
        self.asked: list[tuple[str, str]] = []
        self._transport: asyncio.DatagramTransport | None = None

    def names(self, folder: Path, *, hosts: str = "", options: str = "") -> DnsResolver:
        """Return a resolver that queries this server, by configuration files in `folder`."""
        assert self._transport is not None
        (folder / "hosts").write_text(hosts)
        (folder / "resolv.conf").write_text(f"nameserver 127.0.0.1\n{options}\n")
        port = self._transport.get_extra_info("sockname")[1]
        return DnsResolver(hosts=folder / "hosts", resolv_conf=folder / "resolv.conf", port=port)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=("127.0.0.1", 0)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._transport is not None
        self._transport.close()

    @override
    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        name = question.name.to_text(omit_final_dot=True).lower()
        self.asked.append((name, dns.rdatatype.to_text(question.rdtype)))
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        places = self.records.get(name)
        if places is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif SILENT in places or f"{SILENT} {dns.rdatatype.to_text(question.rdtype)}" in places:
            return
        elif FAILS in places:
            answer.set_rcode(dns.rcode.SERVFAIL)
        else:
            answer.answer += self._records(question.name.to_text(), places, question.rdtype)
        assert self._transport is not None
        self._transport.sendto(answer.to_wire(), addr)

    def _records(
        self, name: str, places: tuple[str, ...], kind: RdataType
    ) -> list[dns.rrset.RRset]:
        """Return the records of a name, and of the name of which it is an alias."""
        found = []
        for place in places:
            if place.startswith(ALIAS):
                other = f"{place.removeprefix(ALIAS)}."
                found.append(dns.rrset.from_text(name, 60, "IN", "CNAME", other))
                found += self._records(other, self.records[other.rstrip(".")], kind)
        own = [place for place in places if _is_of(place, kind)]
        if own:
            found.append(dns.rrset.from_text(name, 60, "IN", dns.rdatatype.to_text(kind), *own))
        return found


def _is_of(place: str, kind: RdataType) -> bool:
    if place.startswith((SILENT, ALIAS)):
        return False
    return (kind == dns.rdatatype.A) == (ip_address(place).version == 4)
