"""`pollux models`: the catalogue as the settings name it, and which of it can be served here.

Shows what stands in files, with the day its rates were looked up; what a running system serves is
the API's to say.
"""

import json as json_text
import os
import sys
from typing import Any, Final

from deploy.local import catalogue as catalogues
from deploy.options import Json
from shared.catalogue import Catalogue, provider_key
from shared.settings import ModelSettings

_HEAD: Final = (
    *(
        "identifier",
        "name",
        "provider",
        "window",
        "$/M in",
        "$/M out",
        "as of",
        "capabilities",
        "key",
    ),
)
_NUMBERS: Final = frozenset({3, 4, 5})


def models(*, json: Json = False) -> None:
    """List the models of the catalogue: windows, rates in US dollars per million tokens, keys.

    Where the settings name no model, those are listed that come with Pollux.
    """
    environment = catalogues.with_shipped(os.environ)
    catalogue = catalogues.read(environment)
    rows = [_row(catalogue, model, environment) for model in catalogue.models]
    if json:
        _print(json_text.dumps(rows))
        return
    _print_table([_HEAD, *(_cells(row) for row in rows)])


def _row(catalogue: Catalogue, model: ModelSettings, environment: dict[str, str]) -> dict[str, Any]:
    provider = catalogue.provider_of(model)
    return {
        "identifier": model.identifier,
        "name": model.title,
        "provider": provider.name,
        "upstream": model.upstream,
        "aliases": list(model.aliases),
        "context_window": model.context_window,
        "max_output_tokens": model.max_output_tokens,
        "input_rate": model.input_rate,
        "output_rate": model.output_rate,
        "rates_date": model.rates_date.isoformat() if model.rates_date else None,
        "capabilities": list(model.capabilities),
        "api_key_env": provider.api_key_env,
        "has_key": provider.api_key_env is None or provider_key(provider, environment) is not None,
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    key = "set" if row["has_key"] else f"{row['api_key_env']} is not set"
    return (
        row["identifier"],
        row["name"],
        row["provider"],
        f"{row['context_window']:,}",
        f"{row['input_rate']:g}",
        f"{row['output_rate']:g}",
        row["rates_date"] or "-",
        " ".join(row["capabilities"]) or "-",
        key if row["api_key_env"] else "none needed",
    )


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if place in _NUMBERS else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        _print("  ".join(cells).rstrip())


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
