"""What an account has used, by day, model and key."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from tests.support.api_client import ApiClient, body, refused

pytestmark = pytest.mark.usefixtures("worker")

USAGE: Final = "/api/v1/account/usage"


async def _usage(api: ApiClient, **query: str) -> dict[str, Any]:
    payload: dict[str, Any] = body(await api.get(USAGE, params=query))["usage"]
    return payload


async def test_usage_is_summed_by_day_model_and_key(api: ApiClient) -> None:
    before = datetime.now(UTC).date()
    statuses = [
        await api.submit_and_wait("hello", model=model) for model in ("alpha", "beta", "alpha")
    ]
    spent = sum(status["credits_used"] for status in statuses)
    by_model = await _usage(api, by="model")
    assert [(item["name"], item["generations"]) for item in by_model["items"]] == [
        ("alpha", 2),
        ("beta", 1),
    ]
    assert by_model["total"]["generations"] == 3
    assert by_model["total"]["credits"] == pytest.approx(spent, abs=1e-9)
    assert sum(item["credits"] for item in by_model["items"]) == pytest.approx(spent, abs=1e-9)
    assert min(item["input_tokens"] for item in by_model["items"]) > 0
    assert min(item["output_tokens"] for item in by_model["items"]) > 0
    by_key = await _usage(api, by="key")
    assert [item["generations"] for item in by_key["items"]] == [3]
    by_day = await _usage(api)
    days = {before.isoformat(), datetime.now(UTC).date().isoformat()}
    assert {item["name"] for item in by_day["items"]} <= days
    assert sum(item["generations"] for item in by_day["items"]) == 3
    assert by_day["total"] == by_model["total"] == by_key["total"]


async def test_nothing_used_is_nothing(api: ApiClient) -> None:
    payload = await _usage(api, to="2026-03-01", by="model")
    assert (payload["from"], payload["to"], payload["by"]) == ("2026-01-31", "2026-03-01", "model")
    assert payload["items"] == []
    assert set(payload["total"].values()) == {0}


async def test_days_outside_are_not_counted(api: ApiClient) -> None:
    await api.submit_and_wait("hello")
    tomorrow = (datetime.now(UTC).date() + timedelta(days=1)).isoformat()
    assert (await _usage(api, **{"from": tomorrow, "to": tomorrow}))["total"]["generations"] == 0
    assert (await _usage(api, to=tomorrow))["total"]["generations"] == 1


async def test_usage_covers_a_year_at_most(api: ApiClient) -> None:
    await api.submit_and_wait("hello")
    today = datetime.now(UTC).date()
    first, last = today - timedelta(days=364), today + timedelta(days=1)
    payload = await _usage(api, **{"from": first.isoformat(), "to": last.isoformat()})
    assert payload["total"]["generations"] == 1
    earlier = (first - timedelta(days=1)).isoformat()
    answer = await api.get(USAGE, params={"from": earlier, "to": last.isoformat()})
    refused(answer, 400, "INVALID_FIELDS")


async def test_one_account_s_use_is_not_another_s(api: ApiClient, other: ApiClient) -> None:
    await api.submit_and_wait("hello")
    assert (await _usage(other))["total"]["generations"] == 0


@pytest.mark.parametrize(
    "query",
    [
        {"by": "hour"},
        {"from": "yesterday"},
        {"from": "2026-13-01"},
        {"to": "2026-02-30"},
        {"from": "20260101"},
        {"from": "2026-02-02", "to": "2026-02-01"},
        {"from": "2025-01-01", "to": "2026-02-01"},
    ],
    ids=str,
)
async def test_what_is_no_day_is_refused(api: ApiClient, query: dict[str, str]) -> None:
    refused(await api.get(USAGE, params=query), 400, "INVALID_FIELDS")
