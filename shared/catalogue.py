"""The catalogue in use: finds providers and models by their names.

Owns the lookups, and the holder of the one catalogue that a process uses. A catalogue never
changes: a reload makes another one, and work that began with the old one ends with it.

DESIGN. The catalogue does not know which models are available; the fleet does. Callers pass
`is_offered`, and an alias resolves only where the model of that very name is not available.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from shared.errors import ConfigurationError
from shared.settings import Dialect, ModelSettings, ProviderSettings, Secret, Settings
from shared.wire.submission import AUTO

# Shown by every process that starts without a model, and by `config check`.
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
    dialects: Mapping[str, Dialect] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Of two models with the same alias the first one keeps it.
        aliased = {alias: model for model in self.models[::-1] for alias in model.aliases}
        for name, found in (
            ("by_identifier", {model.identifier: model for model in self.models}),
            ("by_alias", aliased),
            ("by_provider", {provider.name: provider for provider in self.providers}),
            ("dialects", {provider.name: provider.dialect for provider in self.providers}),
        ):
            object.__setattr__(self, name, found)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the catalogue of these settings."""
        return cls(settings.providers, settings.models)

    def provider_of(self, model: ModelSettings) -> ProviderSettings:
        """Return the provider that serves a model of this catalogue."""
        return self.by_provider[model.provider]

    def resolve(self, name: str, is_offered: Callable[[ModelSettings], bool]) -> str:
        """Return the identifier that a name stands for.

        A model's own identifier stands for itself while the model is offered; otherwise an alias is
        replaced by the model that has it. A name that is neither stays as it is.
        """
        model, aliased = self.by_identifier.get(name), self.by_alias.get(name)
        if aliased is None or (model is not None and is_offered(model)):
            return name
        return aliased.identifier

    def candidates(
        self, name: str, is_offered: Callable[[ModelSettings], bool]
    ) -> tuple[ModelSettings, ...]:
        """Return the models that may answer: the named one, or for `auto` all that are offered.

        Models that make pictures or sounds come last, since few messages ask for any.
        """
        if name != AUTO:
            model = self.by_identifier.get(name)
            return () if model is None else (model,)
        offered = (model for model in self.models if is_offered(model))
        return tuple(sorted(offered, key=lambda model: model.makes_media))


class CatalogueHolder:
    """Holds the catalogue that a process uses; read it at each use, since a reload replaces it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue


def provider_key(provider: ProviderSettings, environment: Mapping[str, str]) -> Secret | None:
    """Return a provider's API key; None if it needs none or its variable is not set.

    The line end of a secrets file is stripped. Raises ConfigurationError for a key that no HTTP
    header can carry.
    """
    if provider.api_key_env is None:
        return None
    key = environment.get(provider.api_key_env, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError([f"{provider.api_key_env}: holds what cannot be sent as a key"])
    return Secret(key) if key else None
