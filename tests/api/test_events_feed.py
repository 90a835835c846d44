"""The feed of an account's events: pages by cursor, filters, refusals, whose events they are."""

from typing import Final

import pytest
from typing_extensions import override

from api.dialects.kolbo.links import LINKS
from shared.clock import SystemClock
from tests.api.kombify_client import AI, TIME, chat, payload, refused
from tests.support.api_client import ApiClient, Json
from tests.support.system import System

pytestmark = pytest.mark.each_once

EVENTS: Final = f"{AI}/events"


async def _feed(api: ApiClient, **query: str | int) -> Json:
    return payload(await api.get(EVENTS, params=query))


@pytest.mark.usefixtures("worker")
async def test_a_reader_follows_the_log_and_misses_nothing(api: ApiClient) -> None:
    empty = await _feed(api)
    assert empty == {
        "items": [], "total": 0, "limit": 20, "next": None, "has_more": False, "has_gap": False,
    }  # fmt: skip
    answers = [await chat(api, f"hello {number}", model="alpha") for number in range(3)]
    first = await _feed(api, limit=2)
    assert (first["total"], first["limit"], first["has_more"]) == (3, 2, True)
    rest = await _feed(api, after=first["next"])
    assert [each["subject"] for each in first["items"] + rest["items"]] == [
        each["id"] for each in answers
    ]
    assert not rest["has_more"]
    nothing = await _feed(api, after=rest["next"])
    assert (nothing["items"], nothing["next"]) == ([], rest["next"])
    event = first["items"][0]
    assert event.keys() == {"id", "type", "actor", "subject", "data", "created_at"}
    assert event["type"] == "generation.completed"
    assert event["data"] == {"url": LINKS.poll_url(answers[0]["id"])}
    assert (await api.get(event["data"]["url"])).status_code == 200
    assert TIME.fullmatch(event["created_at"])
    assert event["actor"]


@pytest.mark.usefixtures("worker")
async def test_events_are_filtered_by_type(api: ApiClient) -> None:
    await chat(api, "hello", model="alpha")
    assert len((await _feed(api, type="generation.completed"))["items"]) == 1
    none = await _feed(api, type="approval.requested")
    assert (none["items"], none["has_more"], none["total"]) == ([], False, 1)
    assert none["next"]


@pytest.mark.usefixtures("worker")
async def test_another_account_sees_none_of_them(api: ApiClient, other: ApiClient) -> None:
    await chat(api, "hello", model="alpha")
    assert (await _feed(other))["total"] == 0


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("after=yesterday", "`after`"),
        ("after=1-2-3", "`after`"),
        (f"after={'9' * 30}-0", "`after`"),
        ("type=generation", "`type`"),
        ("type=A.b", "`type`"),
        ("limit=0", "`limit`"),
    ],
)
async def test_wrong_parameters_are_refused(api: ApiClient, query: str, named: str) -> None:
    answer = await api.get(f"{EVENTS}?{query}")
    assert named in refused(answer, 400, "INVALID_FIELDS")["message"]


class _NextYear(SystemClock):
    @override
    def now_ms(self) -> int:
        return super().now_ms() + 365 * 86_400_000


async def test_a_reader_with_an_old_cursor_learns_that_events_may_be_missing(
    system: System,
) -> None:
    await system.front(_NextYear())
    assert (await _feed(await system.customer(), after="1000-0"))["has_gap"]


async def test_the_feed_needs_the_scope_read(system: System) -> None:
    await system.front()
    writer = await system.customer(scopes=("chat",))
    refused(await writer.get(EVENTS), 403, "FORBIDDEN")
