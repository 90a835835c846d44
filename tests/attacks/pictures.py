"""Pictures at URLs of an attacker: names that no server answers for, and one host called often."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
from typing_extensions import override

from shared.clock import SystemClock
from tests.attacks import bounds, other_tenant, target as targets
from tests.attacks.target import Key, Plan, Target
from tests.bench.figures import Figure
from tests.support import processes

# The name server must listen at port 53, so these attacks need root.
_RESOLVER: Final = "127.0.0.53"
_PORT: Final = 53
_PICTURES: Final = 10
_SUBMISSIONS: Final = 4
_PAUSE_SECONDS: Final = 6.0
_PICTURE_PAUSE_SECONDS: Final = 1.0
_PNG: Final = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c02"
    "0000000b4944415478da6364f80f00010501012718e3660000000049454e44ae426082"
)


class _NameServer(asyncio.DatagramProtocol):
    """A name server that resolves `pictures.test`, and never answers for other names."""

    def __init__(self) -> None:
        self._transport: asyncio.DatagramTransport | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=(_RESOLVER, _PORT)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._transport is not None
        self._transport.close()

    @override
    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        if question.name.to_text() != "pictures.test.":
            return
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        if question.rdtype == dns.rdatatype.A:
            answer.answer.append(dns.rrset.from_text(question.name, 1, "IN", "A", "127.0.0.1"))
        assert self._transport is not None
        self._transport.sendto(answer.to_wire(), addr)


@asynccontextmanager
async def _picture_server(port: int, paths: list[str]) -> AsyncIterator[None]:
    """Serve a picture at /png; anything else is redirected three times and then fails."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).decode().split(" ", 2)[1]
        paths.append(path)
        _, hops, rest = path.split("/", 2)
        if hops == "png":
            head = f"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: {len(_PNG)}"
            writer.write(f"{head}\r\nconnection: close\r\n\r\n".encode() + _PNG)
        else:
            left = int(hops) - 1
            status = f"302 Found\r\nlocation: /{left}/{rest}" if left >= 0 else "503 Busy"
            writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n".encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()


async def silent_names(checkout: Path) -> list[Figure]:
    """Send URLs with ten silent host names every six seconds, while others send a picture."""
    port = processes.free_port()
    plan = Plan(ports=(port,), resolver=_RESOLVER)
    async with (
        _NameServer(),
        _picture_server(port, []),
        targets.running(checkout, plan) as target,
    ):
        attacker = await target.key("attacker", "free")
        other = await target.key("other", "pro")
        attacking = asyncio.create_task(_name_silent_hosts(target, attacker, port))
        (seconds_taken, failed), tenant_report = await other_tenant.run_beside(
            target, _send_pictures(target, other, port, attacking)
        )
    is_met = len(failed) <= bounds.PICTURES_FAILED and max(seconds_taken) <= bounds.PICTURE_SECONDS
    return [
        Figure(
            f"{_PICTURES} silent names every {_PAUSE_SECONDS:g} s, another's pictures",
            f"{len(failed)} of {len(seconds_taken)} failed, slowest {max(seconds_taken):.1f} s",
            ", ".join(sorted(set(failed))),
            f"{bounds.PICTURES_FAILED} failed, <= {bounds.PICTURE_SECONDS:g} s",
            is_met,
        ),
        tenant_report.figure(),
    ]


async def _name_silent_hosts(target: Target, key: Key, port: int) -> None:
    async with target.customer(key) as customer:
        for round_ in range(_SUBMISSIONS):
            urls = [f"http://silent-{round_}-{n}.test:{port}/x" for n in range(_PICTURES)]
            await customer.submit("describe", media_urls=urls)
            await SystemClock().sleep(_PAUSE_SECONDS)


async def _send_pictures(
    target: Target, key: Key, port: int, attacking: "asyncio.Task[None]"
) -> tuple[list[float], list[str]]:
    """Send a picture each second; return the seconds each took, and the codes of failures."""
    sending: list[asyncio.Task[str]] = []
    seconds_taken: list[float] = []
    async with target.customer(key) as customer:

        async def send() -> str:
            began = time.monotonic()
            urls = [f"http://pictures.test:{port}/png/x"]
            status = await customer.wait_for_end(await customer.submit("describe", media_urls=urls))
            seconds_taken.append(time.monotonic() - began)
            return "" if status["state"] == "completed" else str(status["error"])

        while not attacking.done():
            sending.append(asyncio.create_task(send()))
            await SystemClock().sleep(_PICTURE_PAUSE_SECONDS)
        await attacking
        ends = await asyncio.gather(*sending)
    return seconds_taken, [end for end in ends if end]


async def call_one_host(checkout: Path) -> list[Figure]:
    """Make one message of a free account call one host: redirects, failures, retries."""
    port, paths = processes.free_port(), list[str]()
    async with (
        _picture_server(port, paths),
        targets.running(checkout, Plan(ports=(port,))) as target,
        target.customer(await target.key("attacker", "free")) as customer,
    ):
        urls = [f"http://127.0.0.1:{port}/3/{n}" for n in range(_PICTURES)]
        status = await customer.wait_for_end(await customer.submit("describe", media_urls=urls))
        assert status["state"] == "failed", status
    return [
        Figure(
            f"one message of a free account, {_PICTURES} pictures of one host",
            f"{len(paths)} requests to it",
            "",
            f"<= {bounds.HOST_REQUESTS}",
            len(paths) <= bounds.HOST_REQUESTS,
        )
    ]
