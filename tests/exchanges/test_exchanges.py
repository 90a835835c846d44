"""Every exchange comes to the outcome that is right, whatever the upstream's way of saying it."""

import pytest

from tests.exchanges import ends, liveness, odd, refusals
from tests.exchanges.exchange import Exchange
from tests.exchanges.play import play
from tests.support.system import System

pytestmark = pytest.mark.each_once

_KINDS: dict[str, tuple[Exchange, ...]] = {
    "errors": ends.ERRORS,
    "pauses": ends.PAUSES,
    "reasons": ends.REASONS,
    "empty": ends.EMPTY,
    "details": odd.DETAILS,
    "wrappings": odd.WRAPPINGS,
    "money": odd.MONEY,
    "one-request": refusals.ONE_REQUEST,
    "unpaid": refusals.UNPAID,
    "overflow": refusals.OVERFLOW,
    "policy": refusals.POLICY,
    "in-band": refusals.IN_BAND,
    "waits": refusals.WAITS,
    "liveness": liveness.LIVENESS,
}


@pytest.mark.parametrize("kind", _KINDS)
async def test_exchanges_come_to_what_is_right(system: System, kind: str) -> None:
    exchanges = _KINDS[kind]
    seen = await play(system, exchanges)
    faults = {each.name: seen[each.name].faults(each.right) for each in exchanges}
    found = [f"{name}: {each}" for name, those in faults.items() for each in those]
    assert not found, "\n".join(found)
