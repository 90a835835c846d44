"""Every exchange comes to the expected outcome, however the upstream words it."""

import pytest

from tests.exchanges.all_exchanges import KINDS
from tests.exchanges.runner import play
from tests.support.system import System


@pytest.mark.parametrize("kind", KINDS)
async def test_exchanges_come_to_what_is_right(system: System, kind: str) -> None:
    exchanges = KINDS[kind]
    outcomes = await play(system, exchanges)
    faults = {each.name: outcomes[each.name].faults(each.expected) for each in exchanges}
    found = [f"{name}: {each}" for name, those in faults.items() for each in those]
    assert not found, "\n".join(found)
