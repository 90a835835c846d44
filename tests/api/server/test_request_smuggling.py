"""Request smuggling: where two readers could disagree about a request's end, there is one reading.

A second request is hidden in what one reading takes for the body. It is served only where every
reader must take it for a request of its own; otherwise the connection ends.
"""

import asyncio
from typing import Final

import pytest

from tests.api.server.clients import CHUNKED, GET, INVALID, LAST, POST, Answer, RunningServer

HIDDEN: Final = b"GET /hidden HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
LENGTH: Final = b"%d" % len(HIDDEN)
END: Final = b"0\r\n\r\n"
BOTH_LENGTH: Final = b"Content-Length: %d\r\n" % len(END + HIDDEN)

_CODINGS: Final = {
    "none": b"Transfer-Encoding: ",
    "unknown": b"Transfer-Encoding: xchunked",
    "identity": b"Transfer-Encoding: identity",
    "chunked behind another": b"Transfer-Encoding: gzip, chunked",
    "chunked behind another field": b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
    "chunked not last": b"Transfer-Encoding: chunked, identity",
    "comma": b"Transfer-Encoding: chunked,",
    "quoted": b'Transfer-Encoding: "chunked"',
    "parameter": b"Transfer-Encoding: chunked;a=b",
    "vertical tab": b"Transfer-Encoding: \x0bchunked",
    "tab behind": b"Transfer-Encoding: chunked\t",
    "blank in front": b" Transfer-Encoding: chunked",
    "blank behind the name": b"Transfer-Encoding : chunked",
    "folded": b"Transfer-Encoding:\r\n chunked",
    "twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "behind a bare CR": b"X: a\rTransfer-Encoding: chunked",
    "behind a bare LF": b"X: a\nTransfer-Encoding: chunked",
}
_LENGTHS: Final = {
    "plus": b"+" + LENGTH,
    "minus": b"-0",
    "hexadecimal": b"0x" + LENGTH,
    "underscore": b"0_" + LENGTH,
    "blank inside": LENGTH[:1] + b" " + LENGTH[1:],
    "list": LENGTH + b", " + LENGTH,
    "fraction": LENGTH + b".0",
    "none": b"",
    "vertical tab": b"\x0b" + LENGTH,
    "another behind": LENGTH + b"\r\nContent-Length: 0",
    "another in front": b"0\r\nContent-Length: " + LENGTH,
    "the same again": LENGTH + b"\r\nContent-Length: " + LENGTH,
}
_CHUNKS: Final = {
    "hexadecimal": b"0x3\r\nabc\r\n",
    "plus": b"+3\r\nabc\r\n",
    "minus": b"-1\r\nabc\r\n",
    "underscore": b"0_3\r\nabc\r\n",
    "blank in front": b" 3\r\nabc\r\n",
    "blank behind": b"3 \r\nabc\r\n",
    "bare LF": b"3\nabc\r\n",
    "bare CR": b"3\rabc\r\n",
    "bare LF behind the data": b"3\r\nabc\n",
    "no end of the data": b"3\r\nabc",
    "bare LF in an extension": b"3;a\nabc\r\n",
    "bare CR in an extension": b"3;a\rb\r\nabc\r\n",
    "beyond 64 bits": b"10000000000000003\r\nabc\r\n",
}
_ENDS: Final = {
    "bare LF": b"0\n\n",
    "bare LF in a trailer": b"0\r\nX: y\n\n",
    "length in a trailer": b"0\r\nContent-Length: 500\r\n\r\n",
    "coding in a trailer": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
}
REFUSED: Final = {
    **{f"coding {name}": POST + field + b"\r\n\r\n" + END for name, field in _CODINGS.items()},
    **{
        f"coding {name}, and a length": POST + field + b"\r\n" + BOTH_LENGTH + b"\r\n" + END
        for name, field in _CODINGS.items()
    },
    **{
        f"length, and a coding {name}": POST + BOTH_LENGTH + field + b"\r\n\r\n" + END
        for name, field in _CODINGS.items()
    },
    "length, and chunked": POST + BOTH_LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + END,
    "chunked, and a length": POST + b"Transfer-Encoding: chunked\r\n" + BOTH_LENGTH + b"\r\n" + END,
    **{
        f"length {name}": POST + b"Content-Length: " + length + b"\r\n\r\n"
        for name, length in _LENGTHS.items()
    },
    "length with a blank behind the name": POST + b"Content-Length : " + LENGTH + b"\r\n\r\n",
    **{f"chunk {name}": CHUNKED + chunk + END for name, chunk in _CHUNKS.items()},
    **{f"last chunk {name}": CHUNKED + b"3\r\nabc\r\n" + end for name, end in _ENDS.items()},
}
# The first part, and whether what is hidden behind it is a request of its own.
SERVED: Final = {
    "length": (POST + b"Content-Length: " + LENGTH + b"\r\n\r\n", False),
    "length with zeros": (POST + b"Content-Length: 000" + LENGTH + b"\r\n\r\n", False),
    "length among blanks": (POST + b"Content-Length:\t " + LENGTH + b" \r\n\r\n", False),
    "length of a GET": (POST.replace(b"POST", b"GET") + b"Content-Length: 0\r\n\r\n", True),
    "another field": (POST + b"Transfer_Encoding: chunked\r\n\r\n", True),
    "chunked among blanks": (POST + b"Transfer-Encoding:\t chunked \r\n\r\n" + END, True),
    "chunked in capitals": (POST + b"TRANSFER-ENCODING: CHUNKED\r\n\r\n" + END, True),
    "chunk with zeros": (CHUNKED + b"0000000003\r\nabc\r\n" + END, True),
    "chunk with an extension": (CHUNKED + b'3;a="b"\r\nabc\r\n' + END, True),
    "trailer": (CHUNKED + b"3\r\nabc\r\n0\r\nX: y\r\n\r\n", True),
}


async def _all(live_server: RunningServer, requests: list[bytes]) -> list[list[Answer]]:
    return await asyncio.gather(*(live_server.ask(raw + HIDDEN + LAST) for raw in requests))


async def test_a_framing_that_can_be_read_in_two_ways_is_the_end(
    live_server: RunningServer,
) -> None:
    answers = await _all(live_server, list(REFUSED.values()))
    for name, found in zip(REFUSED, answers, strict=True):
        assert [answer.status for answer in found] == [400], name
        assert found[0].fields["connection"] == "close", name
    assert live_server.app.seen == []


async def test_a_framing_that_can_be_read_in_one_way_is_served(
    live_server: RunningServer,
) -> None:
    answers = await _all(live_server, [raw for raw, _ in SERVED.values()])
    for name, found in zip(SERVED, answers, strict=True):
        served = [answer.body.partition(b" ")[0] for answer in found]
        assert served == [b"/plain", b"/hidden" if SERVED[name][1] else b"/last"], name


async def test_a_request_without_a_host_is_served_to_http_1_0_alone(
    live_server: RunningServer,
) -> None:
    head = b"GET /plain HTTP/1.%b\r\nConnection: close\r\n\r\n"
    statuses = [(await live_server.ask(head % version))[0].status for version in (b"0", b"1")]
    assert statuses == [200, 400]


async def test_hosts_of_every_form_are_taken(live_server: RunningServer) -> None:
    for host in (b"", b"a", b"a:80", b"a:", b"127.0.0.1:8000", b"[::1]:8000", b"x-_~.example"):
        (answer,) = await live_server.ask(HIDDEN.replace(b"Host: a", b"Host: " + host))
        assert answer.status == 200, host


async def test_a_target_with_a_host_is_as_its_path(live_server: RunningServer) -> None:
    for target, path in (
        (b"http://example.org/plain", b"/plain"),
        (b"HTTPS://example.org:8443/plain?a=http://b/c", b"/plain"),
        (b"http://example.org", b"/"),
        (b"http://example.org?a=b", b"/"),
        (b"http://[::1]:80/%41", b"/A"),
        (b"http://example.org//a", b"//a"),
    ):
        (answer,) = await live_server.ask(HIDDEN.replace(b"/hidden", target))
        assert (answer.status, answer.body) == (200, path + b" "), target


@pytest.mark.parametrize(
    "raw",
    [
        b"HEAD /plain HTTP/1.1\r\n\r\n",
        b"HEAD /plain HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
        b"HEAD /plain HTTP/1.1\r\nHost: a\r\n",
        b"HEAD /broken HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=["host", "field", "late", "broken"],
)
async def test_a_refused_head_request_gets_no_body(
    live_server: RunningServer, errors_logged: list[str], raw: bytes
) -> None:
    if b"/broken" in raw:
        errors_logged.append("The application failed.")
    async with live_server.client() as client:
        await client.send(GET + raw)
        head, _, body = (await client.read_all()).partition(b"/plain ")[2].partition(b"\r\n\r\n")
    assert int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]) > 0
    assert body == b""


async def test_what_comes_behind_a_head_request_is_refused_with_a_body(
    live_server: RunningServer,
) -> None:
    async with live_server.client() as client:
        await client.send(GET.replace(b"GET", b"HEAD") + INVALID["words"])
        rest = (await client.read_all()).partition(b"\r\n\r\n")[2]
    status = rest.partition(b"\r\n")[0]
    assert status == b"HTTP/1.1 400 Bad Request"
    assert rest.partition(b"\r\n\r\n")[2].startswith(b"{")
