"""The catalogue: names and aliases, API keys, and the catalogue that ships."""

import re
from collections import Counter
from datetime import date

import pytest

from deploy.local import catalogue as catalogues
from shared.catalogue import Catalogue, provider_key
from shared.errors import ConfigurationError
from shared.settings import ModelSettings, ProviderSettings

_OPEN = ProviderSettings(name="open", base_url="http://127.0.0.1:9/v1")
_KEYED = ProviderSettings(name="keyed", base_url="http://127.0.0.1:9/v1", api_key_env="THE_KEY")
_SMALL = ModelSettings(identifier="small", provider="open", upstream="s", aliases=("gpt-4o", "s"))
_OTHER = ModelSettings(identifier="other", provider="open", upstream="o", aliases=("s",))
_NAMED = ModelSettings(identifier="gpt-4o", provider="keyed", upstream="gpt-4o")
_CATALOGUE = Catalogue((_OPEN, _KEYED), (_SMALL, _OTHER, _NAMED))


def test_entries_are_found_by_their_names() -> None:
    assert _CATALOGUE.by_identifier["gpt-4o"] is _NAMED
    assert _CATALOGUE.provider_of(_NAMED) is _KEYED
    assert Catalogue().models == ()
    assert Catalogue((_OPEN,)) == Catalogue((_OPEN,)) != Catalogue()


@pytest.mark.parametrize(
    ("word", "configured", "stands_for"),
    [
        ("small", "small", "small"),
        ("gpt-4o", "small gpt-4o", "gpt-4o"),
        ("gpt-4o", "small", "small"),
        ("s", "", "small"),
        ("nobody", "small", "nobody"),
        ("other", "", "other"),
        ("auto", "small", "auto"),
    ],
)
def test_an_offered_model_takes_precedence_over_an_alias(
    word: str, configured: str, stands_for: str
) -> None:
    names = configured.split()
    assert _CATALOGUE.resolve(word, lambda model: model.identifier in names) == stands_for


def test_candidates_are_the_named_model_or_all_that_are_offered() -> None:
    def is_open(model: ModelSettings) -> bool:
        return model.provider == "open"

    assert _CATALOGUE.candidates("auto", is_open) == (_SMALL, _OTHER)
    assert _CATALOGUE.candidates("gpt-4o", is_open) == (_NAMED,)
    assert _CATALOGUE.candidates("s", is_open) == ()


def test_a_key_is_read_without_its_line_end() -> None:
    key = provider_key(_KEYED, {"THE_KEY": "sk-1\r\n"})
    assert key is not None
    assert key.reveal() == "sk-1"
    for environment in ({}, {"THE_KEY": ""}, {"THE_KEY": " \n"}):
        assert provider_key(_KEYED, environment) is None
    assert provider_key(_OPEN, {"THE_KEY": "sk-1"}) is None
    with pytest.raises(ConfigurationError, match="THE_KEY: ") as refused:
        provider_key(_KEYED, {"THE_KEY": "sk-1\nx: y"})
    assert "sk-1" not in str(refused.value)


@pytest.fixture(name="shipped")
def _shipped() -> Catalogue:
    return catalogues.read(catalogues.with_shipped({"POLLUX_CONFIG": "/dev/null"}))


def test_the_shipped_catalogue_covers_many_providers(shipped: Catalogue) -> None:
    assert len(shipped.models) >= 25
    served = Counter(model.provider for model in shipped.models)
    assert served.keys() == shipped.by_provider.keys()
    assert len(served) >= 8
    assert {provider.dialect for provider in shipped.providers} == {
        "openai",
        "anthropic",
        "gemini",
    }
    assert 2 <= sum(model.recommended for model in shipped.models) <= 4


def test_shipped_providers_need_keys_and_use_tls(shipped: Catalogue) -> None:
    keys = [provider.api_key_env for provider in shipped.providers]
    assert all(key is not None and re.fullmatch(r"[A-Z]+_API_KEY", key) for key in keys)
    assert len(set(keys)) == len(keys)
    assert all(provider.base_url.startswith("https://") for provider in shipped.providers)


def test_every_shipped_model_is_fully_described(shipped: Catalogue) -> None:
    for model in shipped.models:
        assert model.input_rate > 0, model.identifier
        assert model.output_rate >= model.input_rate, model.identifier
        assert model.cached_input_rate is None or 0 < model.cached_input_rate < model.input_rate
        assert model.cache_write_rate is None or model.cache_write_rate >= model.input_rate
        assert model.rates_date is not None
        assert model.rates_date >= date(2026, 11, 22)
        assert model.strengths.keys() == {"code", "math", "writing", "analysis", "general"}
        assert re.fullmatch(r"[A-Z].+\.", model.summary), model.identifier
        assert model.name
        assert model.capabilities
        # A hold is made from the longest answer: one must not cost a fortune.
        assert model.output_rate * model.max_output_tokens <= 1_000_000, model.identifier


def test_configured_models_replace_the_shipped_ones() -> None:
    environment = {"POLLUX_CONFIG": str(catalogues.SHIPPED)}
    assert catalogues.with_shipped(environment) == environment


def test_auto_takes_models_that_make_media_last() -> None:
    brush = ModelSettings(
        identifier="brush", provider="open", upstream="b", capabilities=("image_output",)
    )
    found = Catalogue((_OPEN,), (brush, _SMALL)).candidates("auto", lambda _: True)
    assert found == (_SMALL, brush)
