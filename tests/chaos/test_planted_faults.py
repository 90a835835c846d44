"""The invariants name every planted fault, and find nothing where none is planted."""

import pytest

from shared.redis import library
from shared.settings import RedisSettings
from tests.chaos import planted_faults
from tests.chaos.planted_faults import FAULTS, Fault
from tests.support.redis_server import Server


@pytest.mark.parametrize("partitions", [1, 3])
async def test_ledger_finds_nothing_where_nothing_is_planted(
    marked_server: Server, partitions: int
) -> None:
    settings = _settings(marked_server, f"none{partitions}", partitions)
    with marked_server.raw_client() as raw_client:
        assert await planted_faults.findings_with(raw_client, settings, None) == []


@pytest.mark.parametrize("name", sorted(FAULTS))
async def test_ledger_names_the_invariant_that_a_fault_breaks(
    marked_server: Server, name: str
) -> None:
    settings = _settings(marked_server, f"f{sorted(FAULTS).index(name)}", 1)
    with marked_server.raw_client() as raw_client:
        findings = await planted_faults.findings_with(raw_client, settings, FAULTS[name])
    assert FAULTS[name].invariant in {finding.invariant for finding in findings}


def test_a_fault_is_gone_with_its_block() -> None:
    known = library.NAME, library.TEXT
    with planted_faults.planted(FAULTS["no gap rule"]):
        assert known != (library.NAME, library.TEXT)
        assert library.NAME in library.TEXT
    assert known == (library.NAME, library.TEXT)


def test_a_fault_that_cannot_be_planted_says_so() -> None:
    with pytest.raises(ValueError, match="registers nothing"):
        Fault("nothing", "I1").text(library.TEXT)


def test_faults_break_every_invariant_there_is() -> None:
    assert {fault.invariant for fault in FAULTS.values()} == {f"I{n}" for n in range(1, 11)}


def _settings(server: Server, prefix: str, partitions: int) -> RedisSettings:
    # This server never goes, so a machine that is too busy to connect in time is no finding.
    return RedisSettings(
        url=server.url,
        prefix=prefix,
        partitions=partitions,
        connect_seconds=15.0,
        timeout_seconds=15.0,
    )
