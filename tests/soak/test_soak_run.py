"""A run of some seconds in which every fault comes once, and how the long run is judged."""

import xml.etree.ElementTree as ET

import pytest

from tests.soak import gauges, soak_run, svg_chart
from tests.soak.clients import LAST_WORD, SoakClients
from tests.soak.soak_run import Plan

_PLAN = Plan(
    seconds=1.0,
    clients=8,
    pause_seconds=0.2,
    measure_seconds=0.3,
    keep_seconds=8,
    lasting_workers=1,
    killable_workers=1,
    scale=0.1,
)
_PANELS = {
    "resident memory, MiB",
    "descriptors",
    "tasks not done",
    "objects, thousands",
    "Redis' memory, MiB",
    "keys",
    "ended a second",
}


@pytest.mark.timeout(120)
async def test_every_fault_once_breaks_nothing_and_leaves_nothing() -> None:
    report = await soak_run.run(_PLAN)
    assert report.findings == []
    assert len(report.injected) == 9
    assert report.ended["completed"] > 0
    assert set(report.series) == _PANELS
    drawn = svg_chart.draw("a title & more", report.series, report.marks, report.seconds)
    texts = [each.text for each in ET.fromstring(drawn).iter() if each.text]  # noqa: S314  our own
    assert {*_PANELS, "front 1", "worker 1", "a title & more"} <= set(texts)


def _status(state: str, content: str) -> dict[str, object]:
    return {"state": state, "result": {"content": content}, "failure": None}


@pytest.mark.parametrize(
    ("state", "content", "cancelled", "is_accepted"),
    [
        ("completed", f"[one] word {LAST_WORD}", False, True),
        ("completed", "[one] word", False, False),
        ("completed", f"[two] word {LAST_WORD}", False, False),
        ("failed", "[on", False, True),
        ("failed", "[two", False, False),
        ("cancelled", "", True, True),
        ("cancelled", "", False, False),
    ],
)
def test_an_end_is_held_against_what_was_asked(
    state: str, content: str, cancelled: bool, is_accepted: bool
) -> None:
    soak_clients = SoakClients((), (), 0)
    soak_clients.judge("one", _status(state, content), cancelled=cancelled)
    assert (soak_clients.findings == []) is is_accepted


def test_growth_compares_what_comes_behind_the_warm_up_with_the_end() -> None:
    rising = [(float(at), float(at)) for at in range(101)]
    assert gauges.growth(rising, 100) == (30, 90)
    level = [(float(at), 5.0 if at > 10 else 50.0) for at in range(101)]
    assert gauges.growth(level, 100) == (5, 5)
    assert gauges.growth(rising[:50], 100) is None
