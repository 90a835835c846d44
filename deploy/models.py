"""`pollux models`: lists the catalogue that the settings name, and which providers' keys are set.

Reads the files only, and prints the date of the rates. The API lists what a running system serves
(`/api/v1/models`).
"""

import os
from typing import Any, Final

from deploy.local import catalogue as catalogues
from deploy.options import Json
from deploy.output import print_json, print_table
from shared.catalogue import Catalogue, provider_key
from shared.settings import ModelSettings

_NUMBERS: Final = ("window", "$/M in", "$/M out")
_HEAD: Final = ("identifier", "name", "provider", *_NUMBERS, "as of", "capabilities", "key")


def models(*, json: Json = False) -> None:
    """List the catalogue's models: context window, US dollars per million tokens, provider's key.

    If the settings name no model, the shipped catalogue is listed.
    """
    environment = catalogues.with_shipped(os.environ)
    catalogue = catalogues.read(environment)
    rows = [_row(catalogue, model, environment) for model in catalogue.models]
    if json:
        print_json(rows)
        return
    print_table(_HEAD, [_cells(row) for row in rows], right_aligned=_NUMBERS)


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
