"""Which upstream speaks which dialect, and which models this worker can serve.

Owns the connections of one worker and the keys they carry. A provider whose key is not in the
environment is left out: its models are then served by other workers, or by none.
"""

from collections.abc import Mapping
from typing import Final

from shared.errors import ConfigurationError
from shared.settings import ModelSettings, ProviderSettings, Secret, Settings
from worker.providers.contract import Dialect, Provider
from worker.providers.openai import OpenAI
from worker.providers.upstream import Upstream

DIALECTS: Final[dict[str, Dialect]] = {"openai": OpenAI()}


class Registry:
    """The upstreams that this worker can reach."""

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        self._providers: dict[str, Provider] = {
            provider.name: connect(provider, _key(provider, environment))
            for provider in settings.providers
            if provider.api_key_env is None or environment.get(provider.api_key_env, "").strip()
        }
        self.models = tuple(model for model in settings.models if model.provider in self._providers)
        self.served = frozenset(model.identifier for model in self.models)

    def provider_of(self, model: ModelSettings) -> Provider:
        """Return the adapter that serves a model of `served`."""
        return self._providers[model.provider]

    async def close(self) -> None:
        """Close every upstream's connections."""
        for provider in self._providers.values():
            await provider.close()


def connect(provider: ProviderSettings, key: Secret | None) -> Provider:
    """Return a connection to an upstream. Raises ConfigurationError."""
    return Upstream(DIALECTS[provider.dialect], provider, key)


def _key(provider: ProviderSettings, environment: Mapping[str, str]) -> Secret | None:
    """Return a provider's key, without the line end that a file of secrets leaves behind it."""
    if provider.api_key_env is None:
        return None
    key = environment[provider.api_key_env].strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError([f"{provider.api_key_env}: holds what cannot be sent as a key"])
    return Secret(key)
