"""Which provider speaks which dialect, and which models this worker can serve.

Owns the connections of one worker and their keys. A provider whose key is not in the environment is
left out: its models are then served by other workers, or by none.

DESIGN. A registry is immutable. After a reload, the new registry takes over the connections of
unchanged providers and leaves the others to be closed once idle.
"""

import hashlib
from collections.abc import Mapping
from typing import Final

from shared.catalogue import Catalogue, provider_key
from shared.settings import ModelSettings, ProviderSettings, Secret
from worker.providers.anthropic import Anthropic
from worker.providers.contract import Dialect, Provider
from worker.providers.gemini import Gemini
from worker.providers.http_provider import HttpProvider
from worker.providers.openai import OpenAI

DIALECTS: Final[dict[str, Dialect]] = {
    "openai": OpenAI(),
    "anthropic": Anthropic(),
    "gemini": Gemini(),
}


class Registry:
    """The upstreams that this worker can reach."""

    def __init__(
        self,
        catalogue: Catalogue,
        environment: Mapping[str, str],
        before: "Registry | None" = None,
    ) -> None:
        self.catalogue = catalogue
        self._connections: dict[ProviderSettings, Provider] = {}
        credentials: dict[str, str] = {}
        for provider in catalogue.providers:
            key = provider_key(provider, environment)
            if key is None and provider.api_key_env is not None:
                continue
            kept = before.connection(provider) if before is not None else None
            self._connections[provider] = kept or connect(provider, key)
            credentials[provider.name] = _credential(key)
        self._by_name = {provider.name: open_ for provider, open_ in self._connections.items()}
        self.models = tuple(model for model in catalogue.models if model.provider in self._by_name)
        self._circuits = {
            model.identifier: f"{model.provider}/{model.identifier}/{credentials[model.provider]}"
            for model in self.models
        }
        self.served = frozenset(model.identifier for model in self.models)

    def provider_of(self, model: ModelSettings) -> Provider:
        """Return the connection that serves a model of `served`."""
        return self._by_name[model.provider]

    def circuit_of(self, model: ModelSettings) -> str:
        """Return the circuit of a model of `served`: `provider/model/credential`."""
        return self._circuits[model.identifier]

    def connection(self, provider: ProviderSettings) -> Provider | None:
        """Return the connection to exactly this provider, if there is one."""
        return self._connections.get(provider)

    async def close(self, *, but: "Registry | None" = None) -> None:
        """Close all connections, except those that the registry `but` took over."""
        for provider, open_ in self._connections.items():
            if but is None or but.connection(provider) is not open_:
                await open_.close()


def _credential(key: Secret | None) -> str:
    """Return a short digest that identifies a key without revealing it."""
    return hashlib.sha256(key.reveal().encode()).hexdigest()[:8] if key is not None else "open"


def connect(provider: ProviderSettings, key: Secret | None) -> Provider:
    """Return a connection to an upstream. Raises ConfigurationError."""
    return HttpProvider(DIALECTS[provider.dialect], provider, key)
