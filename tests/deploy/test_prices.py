"""The update of a catalogue's rates, with a fake source of the same shape as the package."""

from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from deploy import prices
from deploy.prices import SourceRates
from shared.errors import ConfigurationError
from shared.settings import Capability

_DAY = date(2026, 12, 1)
_TEXT = """\
# A comment to be kept.
[[providers]]
name = "vendor"
base_url = "https://api.vendor.example/v1"

[[models]]
identifier = "plain"  # by its own name
provider = "vendor"
upstream = "plain-1"
context_window = 1_000  # measured
max_output_tokens = 100
input_rate=1.0
output_rate = 2.0
rates_date = 2026-01-01

[[models]]
provider = "vendor"
identifier = "tiered"
upstream = "tiered-1"
context_window = 200_000

[[companions]]
type = "poet"
name = "input_rate = 9"
persona = "P"
"""


@dataclass
class _Prices:
    input_mtok: Any
    output_mtok: Any
    output_image_mtok: Any = None
    web_searches_kcount: Any = None
    cache_read_mtok: Any = None
    cache_write_mtok: Any = None


@dataclass
class _Tier:
    start: int
    price: Decimal


@dataclass
class _Tiered:
    base: Decimal
    tiers: list[_Tier]


@dataclass
class _Model:
    context_window: int | None
    day: _Prices
    night: _Prices | None = None

    def get_prices(self, request_timestamp: datetime) -> _Prices:
        assert request_timestamp.tzinfo is not None
        return self.night if self.night and request_timestamp.hour < 6 else self.day


@dataclass
class _Vendor:
    api_pattern: str
    models: dict[str, _Model] = field(default_factory=dict)

    def find_model(self, model_ref: str) -> _Model | None:
        return self.models.get(model_ref)


def _price(rate: str, above: str, start: int) -> _Tiered:
    return _Tiered(Decimal(rate), [_Tier(start, Decimal(above))])


_PLAIN = _Model(1_000, _Prices(Decimal("0.5"), Decimal(2)), _Prices(Decimal("1.5"), Decimal("1.0")))
_TIERED = _Model(1_000_000, _Prices(_price("0.1", "9", 100_000), _price("0.4", "9", 90_000)))
_SOURCES = [
    _Vendor(r"https://elsewhere\.example", {"plain-1": _TIERED}),
    _Vendor(r"https://api\.vendor\.example"),
    _Vendor(r"https://(api\.)?vendor\.example", {"plain-1": _PLAIN, "tiered-1": _TIERED}),
]


@pytest.fixture(name="catalogue")
def _catalogue(tmp_path: Path) -> Path:
    where = tmp_path / "catalog.toml"
    where.write_text(_TEXT)
    return where


def _look_up(upstream: str) -> SourceRates | None:
    return prices.look_up(_SOURCES, "https://api.vendor.example/v1", upstream, _DAY)


def test_the_highest_price_of_the_day_is_taken() -> None:
    assert _look_up("plain-1") == SourceRates(1.5, 2.0, 1_000)


def test_the_window_is_cut_where_the_price_rises() -> None:
    assert _look_up("tiered-1") == SourceRates(0.1, 0.4, 90_000)


def test_the_highest_price_of_all_outputs_is_taken() -> None:
    priced = _Prices(Decimal(1), Decimal(2), output_image_mtok=Decimal(30))
    sources = [_Vendor("https", {"painter-1": _Model(9, priced)})]

    def look_up(*capabilities: Capability) -> SourceRates | None:
        return prices.look_up(sources, "https://a.example", "painter-1", _DAY, capabilities)

    assert look_up() == SourceRates(1.0, 2.0, 9)
    assert look_up("image_output") == SourceRates(1.0, 30.0, 9)
    assert look_up("audio_output") == SourceRates(1.0, 2.0, 9)


def test_a_search_is_priced_only_for_models_with_the_capability() -> None:
    priced = _Prices(Decimal(1), Decimal(2), web_searches_kcount=Decimal(10))
    sources = [_Vendor("https", {"finder-1": _Model(9, priced)})]
    can: tuple[Capability, ...] = ("web_search",)
    found = prices.look_up(sources, "https://a.example", "finder-1", _DAY, can)
    assert found == SourceRates(1.0, 2.0, 9, 10.0)
    assert prices.look_up(sources, "https://a.example", "finder-1", _DAY) == SourceRates(
        1.0, 2.0, 9
    )


def test_the_prices_of_caches_are_taken_and_a_step_in_them_cuts_the_window() -> None:
    priced = _Prices(
        *(Decimal(2), Decimal(9)),
        cache_read_mtok=_price("0.2", "0.4", 500),
        cache_write_mtok=Decimal("2.5"),
    )
    sources = [_Vendor("https", {"keeper-1": _Model(900, priced)})]
    found = prices.look_up(sources, "https://a.example", "keeper-1", _DAY)
    assert found == SourceRates(2.0, 9.0, 500, None, 0.2, 2.5)
    change = prices.Change(0, "keeper", "cache_write_rate", None, 2.5)
    assert change.sentence() == "keeper: cache_write_rate none -> 2.5"


def test_an_unknown_or_unpriced_model_has_no_rates() -> None:
    assert _look_up("other") is None
    assert prices.look_up(_SOURCES, "http://127.0.0.1:9/v1", "plain-1", _DAY) is None
    unpriced = [_Vendor("https", {"plain-1": _Model(9, _Prices(None, None))})]
    assert prices.look_up(unpriced, "https://api.vendor.example/v1", "plain-1", _DAY) is None


def test_differences_are_printed_and_nothing_is_written(
    catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prices.run(catalogue, _SOURCES, _DAY, is_written=False) == 0
    assert capsys.readouterr().out.splitlines() == [
        "plain: input_rate 1 -> 1.5",
        "tiered: input_rate 0 -> 0.1",
        "tiered: output_rate 0 -> 0.4",
        "tiered: context_window 200000 -> 90000",
        "2 models, 4 differences, 0 unknown",
    ]
    assert catalogue.read_text() == _TEXT


def test_the_update_keeps_comments_and_order(
    catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prices.run(catalogue, _SOURCES, _DAY, is_written=True) == 0
    expected = (
        _TEXT.replace("input_rate=1.0", "input_rate=1.5")
        .replace("rates_date = 2026-01-01", "rates_date = 2026-12-01")
        .replace(
            '[[models]]\nprovider = "vendor"\nidentifier',
            "[[models]]\ninput_rate = 0.1\noutput_rate = 0.4\nrates_date = 2026-12-01\n"
            'provider = "vendor"\nidentifier',
        )
        .replace("context_window = 200_000", "context_window = 90_000")
    )
    assert catalogue.read_text() == expected
    capsys.readouterr()
    assert prices.run(catalogue, _SOURCES, _DAY, is_written=True) == 0
    assert capsys.readouterr().out == "2 models, 0 differences, 0 unknown\n"
    assert catalogue.read_text() == expected
    assert [entry.name for entry in catalogue.parent.iterdir()] == ["catalog.toml"]


def test_an_unknown_model_is_reported_and_unchanged(
    catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = [_Vendor("https://api", {"tiered-1": _TIERED})]
    assert prices.run(catalogue, sources, _DAY, is_written=True) == 1
    assert "plain: the source does not know it\n" in capsys.readouterr().out
    written = catalogue.read_text()
    assert "rates_date = 2026-01-01" in written
    assert "rates_date = 2026-12-01" in written


def test_a_file_that_would_become_invalid_is_unchanged(catalogue: Path) -> None:
    narrow = _Model(50_000, _Prices(Decimal(1), Decimal(1)))
    catalogue.write_text(_TEXT.replace("200_000", "200_000\nmax_output_tokens = 60_000"))
    before = catalogue.read_text()
    sources = [_Vendor("https", {"plain-1": _PLAIN, "tiered-1": narrow})]
    with pytest.raises(ConfigurationError, match=r"models\[1\].max_output_tokens"):
        prices.run(catalogue, sources, _DAY, is_written=True)
    assert catalogue.read_text() == before
    assert [entry.name for entry in catalogue.parent.iterdir()] == ["catalog.toml"]
