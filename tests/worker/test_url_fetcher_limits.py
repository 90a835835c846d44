"""What one message may ask of a host, and what nobody learns from a name that is not called."""

import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import pytest
from structlog.testing import capture_logs

from shared.egress import Address
from shared.errors import EgressError
from shared.settings import EgressSettings
from tests.support.clocks import ManualClock
from tests.worker.name_server import ALIAS, NameServer
from tests.worker.providers.upstream import Upstream
from tests.worker.url_fetching import (
    BYTES,
    PATIENT_SECONDS,
    ScriptedResolver,
    fetch,
    picture,
    redirect,
    refused,
    settings_of,
    url_fetcher_of,
)
from worker.fetching.url_fetcher import REQUESTS_PER_HOST_MAX, FetchBudget, UrlFetcher


@pytest.fixture
async def server() -> AsyncIterator[Upstream]:
    """Return a server of bare bytes."""
    async with Upstream() as listening:
        yield listening


@pytest.mark.parametrize("location", [None, "http://inside.example/"], ids=["url", "redirect"])
async def test_nobody_learns_whether_a_name_is_private_or_unknown(
    server: Upstream, location: str | None
) -> None:
    """One sentence, one kind, one time, however long the look-up took."""
    if location is not None:
        server.script = redirect(location)
    url = f"http://127.0.0.1:{server.port}/" if location else "http://inside.example/"
    failures = []
    for taken, answer in ((0.0, ["10.0.0.1"]), (0.3, []), (0.6, ["1.1.1.1", "10.0.0.1"])):
        clock, names = ManualClock(), ScriptedResolver(answer)

        async def slow(
            name: str,
            account: str,
            clock: ManualClock = clock,
            names: ScriptedResolver = names,
            taken: float = taken,
        ) -> list[Address]:
            await clock.sleep(taken)
            return await names(name, account)

        url_fetcher = UrlFetcher(settings_of(server, "127.0.0.1"), clock, slow)
        error = await refused(url_fetcher, url)
        failures.append((error.kind, error.retry, error.message, round(clock.now, 6)))
    assert set(failures) == {("unreachable", "never", "The URL's host cannot be called.", 1.0)}


_REFUSAL: Final = "The URL's host cannot be called."
_PRIVATE: Final = (
    *("0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.8.8.8", "169.254.169.254"),
    *("172.16.0.1", "192.0.0.8", "192.168.0.1", "198.18.0.1", "224.0.0.1", "255.255.255.255"),
    *("::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1"),
    *("64:ff9b:1::7f00:1", "2002:7f00:1::", "2002:a00:1::1", "2001:0:7f00:1::", "fc00::1"),
    *("fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "2001:db8::1"),
)


async def test_no_answer_of_a_name_server_leads_inside(server: Upstream, tmp_path: Path) -> None:
    """Alone, beside a public address, and behind another name: every address is judged."""
    names, hosts = NameServer(), ""
    for number, address in enumerate(_PRIVATE):
        names.records[f"n{number}.alone.example"] = (address,)
        names.records[f"n{number}.beside.example"] = ("1.1.1.1", "2a00::1", address)
        hosts += f"{address} n{number}.hosts.example\n"
    for number in range(0, len(_PRIVATE), 5):
        names.records[f"n{number}.alias.example"] = (f"{ALIAS}n{number}.alone.example",)
    asked = [*names.records, *(f"n{number}.hosts.example" for number in range(len(_PRIVATE)))]
    async with names:
        settings = EgressSettings(ports=(server.port,))
        url_fetcher = url_fetcher_of(settings, names.names(tmp_path, hosts=hosts).addresses)
        with capture_logs() as lines:
            for name in asked:
                error = await refused(url_fetcher, f"http://{name}:{server.port}/")
                assert (error.kind, error.message) == ("unreachable", _REFUSAL)
    assert server.connections == 0
    # Each was found, and refused for where it leads.
    reasons = [line["reason"] for line in lines]
    assert reasons == ["The URL leads to an address that is not public."] * len(asked)


async def test_an_alias_of_an_allowed_address_is_called(server: Upstream, tmp_path: Path) -> None:
    server.script = picture()
    async with NameServer(bears_example=("127.0.0.1",)) as names:
        names.records["www.bears.example"] = (f"{ALIAS}bears.example",)
        url_fetcher = url_fetcher_of(
            settings_of(server, "127.0.0.1"), names.names(tmp_path).addresses
        )
        assert await fetch(url_fetcher, f"http://www.bears.example:{server.port}/") == b"picture"


# One message's requests to one host


async def _requests(url_fetcher: UrlFetcher, urls: Sequence[str]) -> list[str | None]:
    """Fetch some URLs for one message; return how each ended, None for a success."""
    budget, ends = FetchBudget("ann", 1_000_000), list[str | None]()
    for url in urls:
        try:
            await url_fetcher.fetch(url, bytes_max=BYTES, seconds=PATIENT_SECONDS, budget=budget)
            ends.append(None)
        except EgressError as error:
            ends.append(error.kind)
    return ends


@pytest.mark.parametrize("host", ["127.0.0.1", "a.example", "{}.example"])
async def test_one_message_calls_a_host_so_often_by_whatever_name(
    server: Upstream, host: str
) -> None:
    server.script = picture()
    url_fetcher = url_fetcher_of(settings_of(server, "127.0.0.1"), ScriptedResolver(["127.0.0.1"]))
    many = range(REQUESTS_PER_HOST_MAX + 5)
    urls = [f"http://{host.format(f'n{number}')}:{server.port}/" for number in many]
    ends = await _requests(url_fetcher, urls)
    assert ends == [None] * REQUESTS_PER_HOST_MAX + ["unreachable"] * 5
    assert len(server.lines) == REQUESTS_PER_HOST_MAX
    # The next message has a budget of its own.
    assert await _requests(url_fetcher, urls[-1:]) == [None]


async def test_redirects_are_counted_among_a_messages_requests(server: Upstream) -> None:
    server.script = redirect("/again")
    url_fetcher = url_fetcher_of(settings_of(server, "127.0.0.1"))
    ends = await _requests(url_fetcher, [f"http://127.0.0.1:{server.port}/"] * 10)
    assert ends == ["unreachable"] * 10
    assert len(server.lines) == REQUESTS_PER_HOST_MAX


async def test_of_a_name_with_many_addresses_a_few_of_each_family_are_called() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        settings = EgressSettings(allow=("127.0.0.0/8", "::1"), ports=(port,))
        url_fetcher = url_fetcher_of(
            settings, ScriptedResolver([*(f"127.0.0.{last}" for last in range(2, 40)), "::1"])
        )
        budget = FetchBudget("ann", 1_000_000)
        with pytest.raises(EgressError):
            await url_fetcher.fetch(
                f"http://a.example:{port}/",
                bytes_max=BYTES,
                seconds=PATIENT_SECONDS,
                budget=budget,
            )
    assert budget._requests.keys() == {"a.example", "127.0.0.2", "::1", "127.0.0.3", "127.0.0.4"}
