"""The DNS resolver: the hosts file, DNS, the time limit, and the limit of each account."""

import asyncio
import os
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from shared.egress import Address
from tests.support.waiting import until
from tests.worker import name_server
from tests.worker.name_server import SILENT, NameServer
from worker.fetching import dns_resolver as looked_up
from worker.fetching.dns_resolver import PER_ACCOUNT_MAX, DnsResolver


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    """Return a name server that knows a few names."""
    async with NameServer(
        pictures_example=("1.2.3.4", "1.2.3.5", "2a00::1"),
        four_example=("1.2.3.4", "silent AAAA"),
        silent_example=(SILENT,),
        bare_example=(),
    ) as listening:
        yield listening


def _addresses(*texts: str) -> list[Address]:
    return [ip_address(text) for text in texts]


async def test_a_name_has_the_addresses_of_both_families(
    server: NameServer, tmp_path: Path
) -> None:
    names = server.names(tmp_path)
    found = await names.addresses("pictures.example", "ann")
    assert sorted(found, key=str) == _addresses("1.2.3.4", "1.2.3.5", "2a00::1")
    assert sorted(server.asked) == [("pictures.example", "A"), ("pictures.example", "AAAA")]


async def test_one_family_does_not_wait_for_a_silent_other(
    server: NameServer, tmp_path: Path
) -> None:
    found = await server.names(tmp_path).addresses("four.example", "ann")
    assert found == _addresses("1.2.3.4")


@pytest.mark.parametrize("name", ["unknown.example", "bare.example"])
async def test_a_name_without_an_address_is_an_error(
    server: NameServer, tmp_path: Path, name: str
) -> None:
    with pytest.raises(OSError, match="address"):
        await server.names(tmp_path).addresses(name, "ann")


@pytest.mark.parametrize("places", [(SILENT,), (name_server.FAILS,)], ids=["silent", "fails"])
async def test_a_look_up_ends_in_time(
    server: NameServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: tuple[str, ...]
) -> None:
    monkeypatch.setattr(looked_up, "_SECONDS", 0.2)
    server.records["silent.example"] = places
    with pytest.raises(OSError):  # noqa: PT011  its text is the machine's
        await server.names(tmp_path).addresses("silent.example", "ann")


async def test_a_failing_server_is_asked_again(server: NameServer, tmp_path: Path) -> None:
    server.records["pictures.example"] = (name_server.FAILS,)
    asking = asyncio.create_task(server.names(tmp_path).addresses("pictures.example", "ann"))
    await until(lambda: len(server.asked) >= 2)
    server.records["pictures.example"] = ("1.2.3.4",)
    assert await asking == _addresses("1.2.3.4")


async def test_the_hosts_file_goes_first_and_is_read_again_when_it_changes(
    server: NameServer, tmp_path: Path
) -> None:
    text = "# pictures.example\n10.0.0.1 Pictures.Example other # and more\nnothing here\n"
    names = server.names(tmp_path, hosts=text + "::1 pictures.example\n10.0.0.1 other\n")
    for name in ("pictures.example", "PICTURES.example."):
        assert await names.addresses(name, "ann") == _addresses("10.0.0.1", "::1")
    assert await names.addresses("other", "ann") == _addresses("10.0.0.1")
    assert server.asked == []
    # Replaced, as editors do: even within one tick of the disk's clock it is another file.
    (tmp_path / "new").write_text("10.0.0.2 other\n")
    os.replace(tmp_path / "new", tmp_path / "hosts")  # noqa: PTH105  the same as Path.replace
    assert await names.addresses("other", "ann") == _addresses("10.0.0.2")
    assert len(await names.addresses("pictures.example", "ann")) == 3


async def test_search_domains_complete_a_name(server: NameServer, tmp_path: Path) -> None:
    names = server.names(tmp_path, options="search nowhere.test example")
    assert len(await names.addresses("pictures", "ann")) == 3
    assert server.asked[0][0] == "pictures.nowhere.test"


async def test_without_files_no_name_has_an_address(tmp_path: Path) -> None:
    names = DnsResolver(hosts=tmp_path / "none", resolv_conf=tmp_path / "none")
    with pytest.raises(OSError, match="NoResolverConfiguration"):
        await names.addresses("pictures.example", "ann")


async def test_the_machines_own_names_are_known() -> None:
    assert ip_address("127.0.0.1") in await DnsResolver().addresses("localhost", "ann")


async def test_an_accounts_silent_names_hold_up_no_other_account(
    server: NameServer, tmp_path: Path
) -> None:
    names = server.names(tmp_path)
    many = PER_ACCOUNT_MAX * 4
    server.records |= {f"n{number}.example": (SILENT,) for number in range(many)}
    silent = [
        asyncio.create_task(names.addresses(f"n{number}.example", "mallory"))
        for number in range(many)
    ]
    try:
        await until(lambda: len(server.asked) == 2 * PER_ACCOUNT_MAX)
        found = await asyncio.wait_for(names.addresses("pictures.example", "ann"), 3)
        assert len(found) == 3
        assert not any(each.done() for each in silent)
        # Its own wait for each other: no more of them were asked meanwhile.
        assert len({name for name, _ in server.asked if name.startswith("n")}) == PER_ACCOUNT_MAX
        silent[0].cancel()
        await until(lambda: len(server.asked) >= 2 * PER_ACCOUNT_MAX + 4)
    finally:
        for each in silent:
            each.cancel()
        await asyncio.gather(*silent, return_exceptions=True)
    assert not names._account_limits._users
    assert not names._account_limits._semaphores
