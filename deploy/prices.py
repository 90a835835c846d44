"""Look the catalogue's rates and windows up again, and renew them in place.

A program for whoever keeps a catalogue, not for a deployment that runs:

    uv run --with genai-prices==0.2.3 python -m deploy.prices deploy/catalog.toml [--write]

Owns the comparison with what the package genai-prices says on a day, and the edit of single lines,
which leaves comments and order as they are. Refuses to add a model, or to guess: one that the
source does not know is told, and the exit code is 1.

DESIGN. A provider is found by its address, which the source has a pattern for. One rate stands for
a whole window: where the source's price rises with the length of the prompt, the window ends where
it does, and of a price that changes with the hour the dearest is taken. So is the dearest of what a
model makes, be it words, pictures or sounds. What a search costs is looked up for models that have
the capability, where the source says it.
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

from shared.clock import SystemClock, iso
from shared.errors import ConfigurationError, PolluxError
from shared.settings import Capability, Settings

_MODEL: Final = "[[models]]"
# Under which names the source prices what is made beside words.
_OUTPUT_PRICE_NAMES: Final[dict[Capability, str]] = {
    "image_output": "output_image_mtok",
    "audio_output": "output_audio_mtok",
}
_FIELD: Final = re.compile(r"^(\w+)( *= *)([^#\n]*?)( *#.*)?$")


class SourceModel(Protocol):
    """A model as the source knows it; prices have `input_mtok`, `output_mtok` and more."""

    context_window: int | None

    def get_prices(self, request_timestamp: datetime, /) -> Any:  # noqa: ANN401  plain or tiered prices
        """Return the prices at a moment."""


class Source(Protocol):
    """A provider as the source knows it; `api_pattern` fits the addresses of its API."""

    @property
    def api_pattern(self) -> str:
        """A regular expression."""

    def find_model(self, model_ref: str, /) -> SourceModel | None:
        """Return the model of that name."""


class SourceRates(NamedTuple):
    """What the source says of a model, in the catalogue's words; None is not said."""

    input_rate: float
    output_rate: float
    context_window: int | None
    search_rate: float | None = None


class Change(NamedTuple):
    """A field that differs: the model's place among the models of its file, and both values."""

    place: int
    identifier: str
    name: str
    before: float
    after: float

    def sentence(self) -> str:
        """Tell a person."""
        return f"{self.identifier}: {self.name} {self.before:g} -> {self.after:g}"


def look_up(
    sources: Iterable[Source],
    url: str,
    upstream: str,
    day: date,
    capabilities: Collection[Capability] = (),
) -> SourceRates | None:
    """Return what holds for a model on a day, or None where the source does not know it."""
    fitting = (source for source in sources if re.match(source.api_pattern, url))
    model = next((found for each in fitting if (found := each.find_model(upstream))), None)
    if model is None:
        return None
    hours = [datetime.combine(day, time(hour), UTC) for hour in range(24)]
    prices = [model.get_prices(hour) for hour in hours]
    made = [_OUTPUT_PRICE_NAMES[each] for each in capabilities if each in _OUTPUT_PRICE_NAMES]
    inputs = _prices_under(prices, "input_mtok")
    outputs = _prices_under(prices, "output_mtok", *made)
    if not inputs or not outputs:
        return None
    price_steps = [
        tier.start for price in (*inputs, *outputs) for tier in getattr(price, "tiers", ())
    ]
    windows = [window for window in (model.context_window, *price_steps) if window is not None]
    searches = _prices_under(prices, "web_searches_kcount") if "web_search" in capabilities else []
    return SourceRates(
        _highest(inputs),
        _highest(outputs),
        min(windows, default=None),
        _highest(searches) if searches else None,
    )


def _prices_under(prices: Iterable[Any], *names: str) -> list[Any]:
    """Return what the source says under some names, at any hour."""
    found = (getattr(each, name, None) for each in prices for name in names)
    return [price for price in found if price is not None]


def _highest(prices: Sequence[Any]) -> float:
    return float(max(Decimal(getattr(price, "base", price)) for price in prices))


def compare(
    settings: Settings, sources: Sequence[Source], day: date
) -> tuple[list[Change], list[str]]:
    """Return what differs, and the models that the source does not know."""
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
    text: str, changes: Iterable[Change], found_rates: Iterable[int], day: date
) -> str:
    """Return a catalogue's text with its changes made, and the day at every model looked up."""
    wanted = {(change.place, change.name): _toml(change.after) for change in changes}
    wanted |= {(index, "rates_date"): day.isoformat() for index in found_rates}
    return "".join(_updated_lines(text, wanted))


def _updated_lines(text: str, wanted: dict[tuple[int, str], str]) -> Iterator[str]:
    """Yield the lines; a field that a model does not name yet follows the head of its table."""
    index, is_model, pending = -1, False, dict(wanted)
    lines = text.splitlines(keepends=True)
    named = _fields_named(lines)
    for line in lines:
        head = line.strip()
        field = _FIELD.match(line.rstrip("\n"))
        if head.startswith("["):
            is_model = head.startswith(_MODEL)
            index += is_model
            yield line
            if is_model:
                missing = [each for each in pending if each[0] == index and each not in named]
                yield from (f"{name} = {pending[index, name]}\n" for _, name in missing)
        elif is_model and field is not None and (index, field[1]) in pending:
            yield f"{field[1]}{field[2]}{pending[index, field[1]]}{field[4] or ''}\n"
        else:
            yield line


def _fields_named(lines: Iterable[str]) -> set[tuple[int, str]]:
    """Return the fields that each model names, by the model's place."""
    index, is_model, named = -1, False, set()
    for line in lines:
        if line.strip().startswith("["):
            is_model = line.strip().startswith(_MODEL)
            index += is_model
        elif is_model and (field := _FIELD.match(line.rstrip("\n"))):
            named.add((index, field[1]))
    return named


def _toml(number: float) -> str:
    return f"{number:_}" if isinstance(number, int) else repr(number)


def run(path: Path, sources: Sequence[Source], day: date, *, is_written: bool) -> int:
    """Compare a catalogue, say what differs, renew it if asked to; return the exit code.

    Raises:
        ConfigurationError: the file is no catalogue, or would be none with what the source says.

    """
    settings = Settings.read({"POLLUX_CONFIG": str(path)})
    changes, unknown = compare(settings, sources, day)
    for change in changes:
        _print(change.sentence())
    for name in unknown:
        _print(f"{name}: the source does not know it")
    _print(f"{len(settings.models)} models, {len(changes)} differences, {len(unknown)} unknown")
    if is_written:
        known = [n for n, each in enumerate(settings.models) if each.identifier not in unknown]
        _write(path, update_catalogue(path.read_text(encoding="utf-8"), changes, known, day))
    return 1 if unknown else 0


def _write(path: Path, text: str) -> None:
    """Put the text in the file's place if it can be read as a catalogue."""
    new_file = path.with_name(f"{path.name}.new")
    new_file.write_text(text, encoding="utf-8")
    try:
        Settings.read({"POLLUX_CONFIG": str(new_file)})
    except ConfigurationError:
        new_file.unlink()
        raise
    new_file.replace(path)


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main() -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(prog="deploy.prices", description="Renew a catalogue's rates.")
    parser.add_argument("catalogue", type=Path)
    parser.add_argument("--write", action="store_true", help="renew the file in place")
    arguments = parser.parse_args()
    day = date.fromisoformat(iso(SystemClock().now_ms())[:10])
    try:
        # Only whoever runs this program has it: it is no dependency of Pollux.
        sources = importlib.import_module("genai_prices.data").providers
        return run(arguments.catalogue, sources, day, is_written=arguments.write)
    except (ModuleNotFoundError, PolluxError) as error:
        sys.stderr.write(f"deploy.prices: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
