"""The catalogue in use: which providers and models there are, found by their names.

Owns the value that every look-up goes through, and the one place of a process where it stands.
Refuses to change one: reading anew makes another, and whoever began with the old one ends with it.

DESIGN. Whether a model is to be had is not the catalogue's to say but the fleet's: who asks says
which are, and an alias stands in for a model that is not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from shared.errors import ConfigurationError
from shared.settings import ModelSettings, ProviderSettings, Secret, Settings
from shared.wire.submission import AUTO

# Said by every process that starts without a model, and by `config check`.
NO_MODELS: Final = "no model is configured, so nothing can be answered"
NO_MODELS_REMEDY: Final = (
    "name models in the file of POLLUX_CONFIG, or a catalogue in POLLUX_CATALOGUE__PATH; "
    "`pollux config shipped` prints the path of one"
)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Providers and models in the order that routing prefers."""

    providers: tuple[ProviderSettings, ...] = ()
    models: tuple[ModelSettings, ...] = ()
    by_identifier: Mapping[str, ModelSettings] = field(init=False, repr=False, compare=False)
    by_alias: Mapping[str, ModelSettings] = field(init=False, repr=False, compare=False)
    by_provider: Mapping[str, ProviderSettings] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Of two that have the same alias the first has it.
        aliased = {alias: model for model in self.models[::-1] for alias in model.aliases}
        for name, found in (
            ("by_identifier", {model.identifier: model for model in self.models}),
            ("by_alias", aliased),
            ("by_provider", {provider.name: provider for provider in self.providers}),
        ):
            object.__setattr__(self, name, found)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the catalogue that settings name."""
        return cls(settings.providers, settings.models)

    def provider_of(self, model: ModelSettings) -> ProviderSettings:
        """Return who serves a model of this catalogue."""
        return self.by_provider[model.provider]

    def resolve(self, word: str, is_offered: Callable[[ModelSettings], bool]) -> str:
        """Return the identifier that a word stands for: a model's own, if it is to be had.

        Else the model's whose alias it is; a word that stands for nothing stays as it is.
        """
        model, aliased = self.by_identifier.get(word), self.by_alias.get(word)
        if aliased is None or (model is not None and is_offered(model)):
            return word
        return aliased.identifier

    def candidates(
        self, name: str, is_offered: Callable[[ModelSettings], bool]
    ) -> tuple[ModelSettings, ...]:
        """Return who may answer: the model of that name, or for `auto` all that are to be had.

        Of those, the ones that make pictures or sounds come last: not everybody wants any.
        """
        if name != AUTO:
            model = self.by_identifier.get(name)
            return () if model is None else (model,)
        offered = (model for model in self.models if is_offered(model))
        return tuple(sorted(offered, key=lambda model: model.makes_media))


class CatalogueHolder:
    """Where the catalogue of a process stands: look here each time, and keep none for later."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue


def provider_key(provider: ProviderSettings, environment: Mapping[str, str]) -> Secret | None:
    """Return a provider's key, or None: it needs none, or its variable is not set.

    The line end that a file of secrets leaves behind a key is no part of it. Raises
    ConfigurationError for what cannot be sent as a key.
    """
    if provider.api_key_env is None:
        return None
    key = environment.get(provider.api_key_env, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError([f"{provider.api_key_env}: holds what cannot be sent as a key"])
    return Secret(key) if key else None
