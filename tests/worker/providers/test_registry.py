"""Which models a worker can serve: those whose provider's key it was given."""

import re

import pytest

from shared.catalogue import Catalogue
from shared.errors import ConfigurationError
from shared.settings import ModelSettings, ProviderSettings
from tests.worker.providers.dialects import DIALECTS
from worker.providers import registry
from worker.providers.http_provider import HttpProvider
from worker.providers.registry import Registry

_CATALOGUE = Catalogue(
    providers=(
        ProviderSettings(name="open", base_url="http://127.0.0.1:9/v1"),
        ProviderSettings(name="shut", base_url="http://127.0.0.1:9/v1", api_key_env="SHUT_KEY"),
    ),
    models=(
        ModelSettings(identifier="b", provider="shut", upstream="b"),
        ModelSettings(identifier="a", provider="open", upstream="a"),
        ModelSettings(identifier="c", provider="shut", upstream="c"),
    ),
)


@pytest.mark.parametrize("environment", [{}, {"SHUT_KEY": ""}, {"SHUT_KEY": " \n"}])
async def test_provider_without_a_key_is_left_to_other_workers(environment: dict[str, str]) -> None:
    found = Registry(_CATALOGUE, environment)
    assert [model.identifier for model in found.models] == ["a"]
    assert found.served == {"a"}
    await found.close()


async def test_provider_with_its_key_serves_its_models_in_the_catalogue_s_order() -> None:
    found = Registry(_CATALOGUE, {"SHUT_KEY": "sk-1"})
    assert [model.identifier for model in found.models] == ["b", "a", "c"]
    b, a, c = found.models
    assert found.provider_of(b) is found.provider_of(c)
    assert found.provider_of(b) is not found.provider_of(a)
    await found.close()


async def test_line_end_behind_a_key_is_not_sent() -> None:
    found = Registry(_CATALOGUE, {"SHUT_KEY": "sk-1\r\n"})
    provider = found.provider_of(found.models[0])
    assert isinstance(provider, HttpProvider)
    assert provider._headers["authorization"] == "Bearer sk-1"
    await found.close()


@pytest.mark.parametrize("key", ["sk-ä", "sk-1\nx: y", "sk\x00", "sk\x7f"])
def test_key_that_no_header_can_hold_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape("SHUT_KEY: ")) as refused:
        Registry(_CATALOGUE, {"SHUT_KEY": key})
    assert "sk" not in str(refused.value)


def test_every_dialect_has_its_row_in_the_conformance_suite() -> None:
    assert {dialect.name for dialect in DIALECTS} == set(registry.DIALECTS)
