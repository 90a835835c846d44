"""`pollux config`: whether the settings can be used, before anything is started with them.

Reads them as every process does. Refuses to show a secret: of a key, only whether it is there.
"""

import asyncio
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final

import httpx
import msgspec
from cyclopts import App, Parameter

from deploy import provider_check
from deploy.local.catalogue import SHIPPED
from deploy.options import Json, examples
from shared import settings_loader
from shared.catalogue import NO_MODELS, NO_MODELS_REMEDY, provider_key
from shared.errors import ConfigurationError
from shared.settings import ProviderSettings, Secret, Settings

app: Final = App(
    name="config",
    help="Check and show the settings.",
    help_format="markdown",
    help_epilogue=examples(
        "pollux config check --try",
        "pollux config show",
        "pollux config shipped",
    ),
)

_ENTRIES: Final = {"providers", "models", "companions"}
# What stands between the first colon, behind a user's name that may have an `@`, and the last `@`.
_PASSWORD: Final = re.compile(r"^([a-z]+://[^:]*:).*@")
# What follows an address: services take keys there.
_QUERY: Final = re.compile(r"^(https?://[^?#]*[?#]).+")

Try = Annotated[bool, Parameter(name="--try", negative="")]


@app.command
def check(*, try_: Try = False) -> int:
    """Read the settings and the catalogue, name every fault with its path, and tell what was read.

    Args:
        try_: Also ask each provider whose key is set for its list of models.

    """
    environment = dict(os.environ)
    try:
        settings = Settings.read(environment)
        keys = _keys(settings, environment)
    except ConfigurationError as error:
        for fault in error.faults:
            sys.stderr.write(f"{fault}\n")
        return 1
    _print_summary(settings, keys, environment)
    return 0 if not try_ or asyncio.run(_check_providers(settings, keys)) else 1


@app.command
def show(*, json: Json = False) -> int:
    """Print every setting with the value that holds: the file's, the environment's, or the default.

    Models and providers are left to `pollux models` and `pollux config check`. A password in
    `redis.url` is masked, and what follows `?` in `search.base_url`.
    """
    try:
        settings = Settings.read(dict(os.environ))
    except ConfigurationError as error:
        for fault in error.faults:
            sys.stderr.write(f"{fault}\n")
        return 1
    values = dict(_values(settings))
    if json:
        _print(msgspec.json.encode(values).decode())
        return 0
    for path, value in values.items():
        _print(f"{path} = {msgspec.json.encode(value).decode()}")
    return 0


def _values(settings: Settings) -> Iterator[tuple[str, object]]:
    """Yield each setting's path and value, but for the lists of entries."""
    for path in settings_loader.setting_paths(Settings):
        if path not in _ENTRIES:
            value: object = settings
            for name in path.split("."):
                value = getattr(value, name)
            yield path, _masked(value) if isinstance(value, str) else value


def _masked(value: str) -> str:
    """Return a text without what a URL may have in it for nobody to read."""
    return _QUERY.sub(r"\1***", _PASSWORD.sub(r"\1***@", value))


@app.command
def shipped() -> None:
    """Print the path of the catalogue that comes with Pollux."""
    _print(str(SHIPPED))


def _keys(settings: Settings, environment: Mapping[str, str]) -> dict[str, Secret | None]:
    """Return each provider's key, and that of who searches, by its name.

    Raises ConfigurationError with every one that cannot be sent.
    """
    keys, faults = {}, []
    for provider in (*settings.providers, *_search_providers(settings)):
        try:
            keys[provider.name] = provider_key(provider, environment)
        except ConfigurationError as error:
            faults += error.faults
    if faults:
        raise ConfigurationError(faults)
    return keys


def _search_providers(settings: Settings) -> Iterator[ProviderSettings]:
    """Yield who searches the web, if anybody does, as one that needs a key."""
    search = settings.search
    if search.service is not None:
        url = search.base_url or "http://localhost"
        yield ProviderSettings(
            name=f"search by {search.service}", base_url=url, api_key_env=search.api_key_env
        )


def _print_summary(
    settings: Settings, keys: Mapping[str, Secret | None], environment: Mapping[str, str]
) -> None:
    files = settings_loader.files(environment, Path.cwd())
    for path in files:
        _print(f"read {path.absolute()}")
    if not files:
        _print("no settings file: what the environment does not say is as by default")
    _print(
        f"{len(settings.providers)} providers, {len(settings.models)} models, "
        f"{len(settings.companions)} companions"
    )
    if not settings.models:
        sys.stderr.write(f"warning: {NO_MODELS}; {NO_MODELS_REMEDY}\n")
    for provider in settings.providers:
        _print(f"  {provider.name}: {_describe_key(provider, keys)}")
    for searcher in _search_providers(settings):
        _print(f"  {searcher.name}: {_describe_key(searcher, keys, 'searched')}")


def _describe_key(
    provider: ProviderSettings, keys: Mapping[str, Secret | None], what: str = "served"
) -> str:
    if provider.api_key_env is None:
        return "needs no key"
    is_there = keys[provider.name] is not None
    return f"{provider.api_key_env} is {'set' if is_there else f'missing: not {what} here'}"


async def _check_providers(settings: Settings, keys: Mapping[str, Secret | None]) -> bool:
    """Ask all providers at once; return whether every one answered well."""
    asked = [
        each
        for each in settings.providers
        if each.api_key_env is None or keys[each.name] is not None
    ]
    async with httpx.AsyncClient(trust_env=False) as http:
        answers = await asyncio.gather(
            *(
                provider_check.check_provider(
                    http,
                    provider,
                    keys[provider.name],
                    [m.upstream for m in settings.models if m.provider == provider.name],
                )
                for provider in asked
            )
        )
    for provider, (_, sentence) in zip(asked, answers, strict=True):
        _print(f"  {provider.name}: {sentence}")
    return all(is_ok for is_ok, _ in answers)


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
