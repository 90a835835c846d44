"""Program that updates the rates and context windows of a catalogue file in place.

For whoever maintains a catalogue; a running deployment does not need it:

    uv run --with genai-prices==0.2.3 python -m deploy.prices deploy/catalog.toml [--write]

Owns the comparison with the package genai-prices (the source) and the edit of single lines, which
keeps comments and order. Refuses to add a model or to guess: a model that the source does not know
is reported, and the exit code is 1.

DESIGN. The source has a URL pattern for each of its providers, by which ours are found. The
catalogue has one rate for a whole context window. So if the source's price rises above a prompt
length, say 200,000 tokens, the window is cut to that length; if the price depends on the hour, the
highest is taken; and if a model outputs text, images and audio, so is the highest of their prices.
The price of a web search is compared for models with that capability, if the source has one. Of
the prices of a cache's writes, that for five minutes is taken, which is all that requests ask for.
"""

import argparse
import importlib
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from deploy.output import print_line
from shared.clock import SystemClock, iso
from shared.errors import ConfigurationError, PolluxError
from shared.settings import Capability, Settings

_MODEL: Final = "[[models]]"
# The source's names for the prices of output other than text.
_OUTPUT_PRICE_NAMES: Final[dict[Capability, str]] = {
    "image_output": "output_image_mtok",
    "audio_output": "output_audio_mtok",
}
_FIELD: Final = re.compile(r"^(\w+)( *= *)([^#\n]*?)( *#.*)?$")


class SourceModel(Protocol):
    """A model of the source; its prices have `input_mtok`, `output_mtok` and more."""

    context_window: int | None

    def get_prices(self, request_timestamp: datetime, /) -> Any:  # noqa: ANN401  plain or tiered prices
        """Return the prices at a moment."""


class Source(Protocol):
    """A provider of the source; `api_pattern` matches the URLs of its API."""

    @property
    def api_pattern(self) -> str:
        """A regular expression."""

    def find_model(self, model_ref: str, /) -> SourceModel | None:
        """Return the model of that name."""


class SourceRates(NamedTuple):
    """The source's figures for a model, named as in the catalogue; None is unknown."""

    input_rate: float
    output_rate: float
    context_window: int | None
    search_rate: float | None = None
    cached_input_rate: float | None = None
    cache_write_rate: float | None = None


class Change(NamedTuple):
    """A field that differs: the model's position in the file, and the field's two values."""

    position: int
    identifier: str
    name: str
    before: float | None
    after: float

    def sentence(self) -> str:
        """Return the change as a line for a person."""
        before = "none" if self.before is None else f"{self.before:g}"
        return f"{self.identifier}: {self.name} {before} -> {self.after:g}"


def look_up(
    sources: Iterable[Source],
    url: str,
    upstream: str,
    day: date,
    capabilities: Collection[Capability] = (),
) -> SourceRates | None:
    """Return a model's figures on a day, or None if the source does not know the model."""
    matching = (source for source in sources if re.match(source.api_pattern, url))
    model = next((found for each in matching if (found := each.find_model(upstream))), None)
    if model is None:
        return None
    hours = [datetime.combine(day, time(hour), UTC) for hour in range(24)]
    prices = [model.get_prices(hour) for hour in hours]
    media = [_OUTPUT_PRICE_NAMES[each] for each in capabilities if each in _OUTPUT_PRICE_NAMES]
    inputs = _prices_under(prices, "input_mtok")
    outputs = _prices_under(prices, "output_mtok", *media)
    if not inputs or not outputs:
        return None
    reads = _prices_under(prices, "cache_read_mtok")
    writes = _prices_under(prices, "cache_write_mtok")
    price_steps = [
        tier.start
        for price in (*inputs, *outputs, *reads, *writes)
        for tier in getattr(price, "tiers", ())
    ]
    windows = [window for window in (model.context_window, *price_steps) if window is not None]
    searches = _prices_under(prices, "web_searches_kcount") if "web_search" in capabilities else []
    return SourceRates(
        _highest(inputs),
        _highest(outputs),
        min(windows, default=None),
        _highest(searches) if searches else None,
        _highest(reads) if reads else None,
        _highest(writes) if writes else None,
    )


def _prices_under(prices: Iterable[Any], *names: str) -> list[Any]:
    """Return the source's prices under these names, at all hours."""
    found = (getattr(each, name, None) for each in prices for name in names)
    return [price for price in found if price is not None]


def _highest(prices: Sequence[Any]) -> float:
    return float(max(Decimal(getattr(price, "base", price)) for price in prices))


def compare(
    settings: Settings, sources: Sequence[Source], day: date
) -> tuple[list[Change], list[str]]:
    """Return the fields that differ, and the models that the source does not know."""
    urls = {provider.name: provider.base_url for provider in settings.providers}
    changes, unknown = [], []
    for index, model in enumerate(settings.models):
        url = urls[model.provider]
        found_rates = look_up(sources, url, model.upstream, day, model.capabilities)
        if found_rates is None:
            unknown.append(model.identifier)
            continue
        for name, after in found_rates._asdict().items():
            before = getattr(model, name)
            if after is not None and before != after:
                changes.append(Change(index, model.identifier, name, before, after))
    return changes, unknown


def update_catalogue(
    text: str, changes: Iterable[Change], found_positions: Iterable[int], day: date
) -> str:
    """Return the catalogue's text with the changes made, and the date at every model found."""
    values = {(change.position, change.name): _toml(change.after) for change in changes}
    values |= {(position, "rates_date"): day.isoformat() for position in found_positions}
    return "".join(_updated_lines(text, values))


def _updated_lines(text: str, values: dict[tuple[int, str], str]) -> Iterator[str]:
    """Yield the lines; a field that is new to a model follows the header of its table."""
    position, is_model = -1, False
    lines = text.splitlines(keepends=True)
    present = _present_fields(lines)
    for line in lines:
        stripped = line.strip()
        field = _FIELD.match(line.rstrip("\n"))
        if stripped.startswith("["):
            is_model = stripped.startswith(_MODEL)
            position += is_model
            yield line
            if is_model:
                missing = [each for each in values if each[0] == position and each not in present]
                yield from (f"{name} = {values[position, name]}\n" for _, name in missing)
        elif is_model and field is not None and (position, field[1]) in values:
            yield f"{field[1]}{field[2]}{values[position, field[1]]}{field[4] or ''}\n"
        else:
            yield line


def _present_fields(lines: Iterable[str]) -> set[tuple[int, str]]:
    """Return the fields that the models have, as pairs of the model's position and the field."""
    position, is_model, present = -1, False, set()
    for line in lines:
        if line.strip().startswith("["):
            is_model = line.strip().startswith(_MODEL)
            position += is_model
        elif is_model and (field := _FIELD.match(line.rstrip("\n"))):
            present.add((position, field[1]))
    return present


def _toml(number: float) -> str:
    return f"{number:_}" if isinstance(number, int) else repr(number)


def run(path: Path, sources: Sequence[Source], day: date, *, is_written: bool) -> int:
    """Compare a catalogue, print the differences, update it if asked to; return the exit code.

    Raises:
        ConfigurationError: the file is not a valid catalogue, or would not be one after the update.

    """
    settings = Settings.read({"POLLUX_CONFIG": str(path)})
    changes, unknown = compare(settings, sources, day)
    for change in changes:
        print_line(change.sentence())
    for name in unknown:
        print_line(f"{name}: the source does not know it")
    print_line(f"{len(settings.models)} models, {len(changes)} differences, {len(unknown)} unknown")
    if is_written:
        known = [n for n, each in enumerate(settings.models) if each.identifier not in unknown]
        _write(path, update_catalogue(path.read_text(encoding="utf-8"), changes, known, day))
    return 1 if unknown else 0


def _write(path: Path, text: str) -> None:
    """Replace the file if the text is a valid catalogue."""
    new_file = path.with_name(f"{path.name}.new")
    new_file.write_text(text, encoding="utf-8")
    try:
        Settings.read({"POLLUX_CONFIG": str(new_file)})
    except ConfigurationError:
        new_file.unlink()
        raise
    new_file.replace(path)


def main() -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="deploy.prices", description="Update a catalogue's rates."
    )
    parser.add_argument("catalogue", type=Path)
    parser.add_argument("--write", action="store_true", help="update the file in place")
    arguments = parser.parse_args()
    day = date.fromisoformat(iso(SystemClock().now_ms())[:10])
    try:
        # Installed only by those who run this program: it is no dependency of Pollux.
        sources = importlib.import_module("genai_prices.data").providers
        return run(arguments.catalogue, sources, day, is_written=arguments.write)
    except (ModuleNotFoundError, PolluxError) as error:
        sys.stderr.write(f"deploy.prices: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
