"""The account's preferred model: stored, returned, and used where a chat names none."""

import msgspec
import pytest

from shared.companions import CompanionSettings
from shared.stores.accounts import Accounts
from tests.api.kombify_client import AI, chat, payload, refused
from tests.support.api_client import ApiClient, Json
from tests.support.system import System


async def _prefer(api: ApiClient, model: str | None) -> Json:
    return payload(await api.put(f"{AI}/preferences/model", json={"model": model}))


async def _preferred(api: ApiClient) -> str | None:
    model: str | None = payload(await api.get(f"{AI}/preferences"))["model"]
    return model


async def test_a_preference_is_stored_returned_and_cleared(api: ApiClient) -> None:
    assert await _preferred(api) is None
    for asked, stored in (("beta", "beta"), ("gpt-4o", "alpha"), ("auto", "auto"), (None, None)):
        assert await _prefer(api, asked) == {"model": stored}
        # It takes effect at once in the process that wrote it.
        assert await _preferred(api) == stored


@pytest.mark.usefixtures("worker")
async def test_chats_that_name_no_model_follow_it(api: ApiClient) -> None:
    await _prefer(api, "beta")
    assert (await chat(api, "hello"))["message"]["model"] == "beta"
    assert (await chat(api, "hello", model="alpha"))["message"]["model"] == "alpha"
    assert (await chat(api, "hello", model="auto"))["routing"]["policy"] == "catalogue_order"
    # Without a model, the other dialect promises Smart Select.
    assert (await api.submit_and_wait("hello"))["result"]["model"] == "auto"
    await _prefer(api, None)
    assert (await chat(api, "hello"))["routing"]["policy"] == "catalogue_order"


async def test_it_goes_before_a_companions_own_model(system: System) -> None:
    companion = CompanionSettings(type="poet", name="Poet", persona="Rhyme.", model="beta")
    system.settings = msgspec.structs.replace(system.settings, companions=(companion,))
    await system.front()
    await system.worker()
    api = await system.customer()
    for preferred, policy, model in (
        (None, "requested", "beta"),
        ("alpha", "requested", "alpha"),
        ("auto", "catalogue_order", "alpha"),
    ):
        await _prefer(api, preferred)
        said = await chat(api, "hello", companion="poet")
        assert (said["routing"]["policy"], said["message"]["model"]) == (policy, model)


async def test_another_server_knows_within_a_second(system: System) -> None:
    await system.front()
    api = await system.customer()
    elsewhere = await system.front()
    there = f"{elsewhere}{AI}/preferences"
    assert payload(await api.get(there)) == {"model": None}
    await _prefer(api, "beta")
    system.clock.advance(0.8)
    assert payload(await api.get(there)) == {"model": "beta"}


async def test_an_unknown_model_is_refused_and_changes_nothing(api: ApiClient) -> None:
    await _prefer(api, "beta")
    for model in ("nothing", "", "Beta"):
        answer = await api.put(f"{AI}/preferences/model", json={"model": model})
        refused(answer, 400, "MODEL_NOT_FOUND")
    refused(await api.put(f"{AI}/preferences/model", json={}), 400, "MISSING_FIELDS")
    answer = await api.put(f"{AI}/preferences/model", json={"model": 3})
    refused(answer, 400, "INVALID_FIELDS")
    assert await _preferred(api) == "beta"


async def test_a_preference_that_left_the_catalogue_is_passed_over(system: System) -> None:
    await system.front()
    api = await system.customer()
    account = await system.account()
    await system.accounts.prefer(account, "of-yesterday")
    await system.worker()
    assert (await chat(api, "hello"))["routing"]["policy"] == "catalogue_order"


async def test_it_is_the_accounts_own(api: ApiClient, other: ApiClient, system: System) -> None:
    await _prefer(api, "beta")
    assert await _preferred(other) is None
    twin = await system.customer("one")
    assert await _preferred(twin) == "beta"


async def test_a_change_of_tier_keeps_it(api: ApiClient, system: System) -> None:
    await _prefer(api, "beta")
    accounts: Accounts = system.accounts
    changed = await accounts.create("one", "free")
    assert (changed.tier, changed.preferred_model) == ("free", "beta")
    await _prefer(api, "alpha")
    found = await accounts.find("one")
    assert found is not None
    assert (found.tier, found.preferred_model) == ("free", "alpha")
    assert found.partition == changed.partition
    assert found.created == changed.created
