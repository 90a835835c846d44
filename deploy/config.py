"""`pollux config`: checks and prints the settings, before a process is started with them.

Reads them as every process does. Refuses to print a secret: of a key it prints whether it is set.
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
from deploy.output import print_line
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
# The password is between the colon after the user name, which may contain an `@`, and the last `@`.
_PASSWORD: Final = re.compile(r"^([a-z]+://[^:]*:).*@")
# Query and fragment of a URL: some services take their key there.
_QUERY: Final = re.compile(r"^(https?://[^?#]*[?#]).+")

Try = Annotated[bool, Parameter(name="--try", negative="")]


@app.command
def check(*, try_: Try = False) -> int:
    """Read the settings and the catalogue; print every fault with its path, or a summary.

    Args:
        try_: Also ask each provider whose key is set for its list of models.

    """
    environment = dict(os.environ)
    try:
        settings = Settings.read(environment)
        keys = _keys(settings, environment)
    except ConfigurationError as error:
        return _print_faults(error)
    _print_summary(settings, keys, environment)
    return 0 if not try_ or asyncio.run(_check_providers(settings, keys)) else 1


@app.command
def show(*, json: Json = False) -> int:
    """Print every setting with its effective value: of the environment, a file, or the default.

    For models and providers see `pollux models` and `pollux config check`. The password in
    `redis.url` is masked, and so is the query of `search.base_url`.
    """
    try:
        settings = Settings.read(dict(os.environ))
    except ConfigurationError as error:
        return _print_faults(error)
    values = dict(_values(settings))
    if json:
        print_line(msgspec.json.encode(values).decode())
        return 0
    for path, value in values.items():
        print_line(f"{path} = {msgspec.json.encode(value).decode()}")
    return 0


def _print_faults(error: ConfigurationError) -> int:
    """Print every fault; return the exit code."""
    for fault in error.faults:
        sys.stderr.write(f"{fault}\n")
    return 1


def _values(settings: Settings) -> Iterator[tuple[str, object]]:
    """Yield the path and value of each setting, except providers, models and companions."""
    for path in settings_loader.setting_paths(Settings):
        if path not in _ENTRIES:
            value: object = settings
            for name in path.split("."):
                value = getattr(value, name)
            yield path, _masked(value) if isinstance(value, str) else value


def _masked(value: str) -> str:
    """Return a text in which the secrets of a URL are replaced by `***`."""
    return _QUERY.sub(r"\1***", _PASSWORD.sub(r"\1***@", value))


@app.command
def shipped() -> None:
    """Print the path of the catalogue that ships with Pollux."""
    print_line(str(SHIPPED))


def _keys(settings: Settings, environment: Mapping[str, str]) -> dict[str, Secret | None]:
    """Return the key of each provider, and of the search service, by the provider's name.

    Raises:
        ConfigurationError: with every key that has characters that no header can carry.

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
    """Yield the search service, if one is set, in the form of a provider that needs a key."""
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
        print_line(f"read {path.absolute()}")
    if not files:
        print_line("no settings file: settings that the environment does not set have defaults")
    print_line(
        f"{len(settings.providers)} providers, {len(settings.models)} models, "
        f"{len(settings.companions)} companions"
    )
    if not settings.models:
        sys.stderr.write(
            f"warning: {NO_MODELS}; {NO_MODELS_REMEDY} (`pollux up` and `pollux demo` bring a "
            "local model)\n"
        )
    for provider in settings.providers:
        print_line(f"  {provider.name}: {_describe_key(provider, keys, 'its models are')}")
    for search in _search_providers(settings):
        print_line(f"  {search.name}: {_describe_key(search, keys, 'it is')}")


def _describe_key(
    provider: ProviderSettings, keys: Mapping[str, Secret | None], unavailable: str
) -> str:
    if provider.api_key_env is None:
        return "needs no key"
    if keys[provider.name] is None:
        return f"{provider.api_key_env} is not set: {unavailable} not available here"
    return f"{provider.api_key_env} is set"


async def _check_providers(settings: Settings, keys: Mapping[str, Secret | None]) -> bool:
    """Ask all providers at the same time; return whether all of them answered with success."""
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
                    [
                        model.upstream
                        for model in settings.models
                        if model.provider == provider.name
                    ],
                )
                for provider in asked
            )
        )
    for provider, (_, sentence) in zip(asked, answers, strict=True):
        print_line(f"  {provider.name}: {sentence}")
    return all(is_ok for is_ok, _ in answers)
