"""What the operator has configured, and so what need not be embedded.

Reads the same settings as every process, and two things more: whether a Redis is configured at all,
and the text of the settings file, to which the local model's catalogue can be appended.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from shared.settings import Settings

_REDIS_VARIABLES: Final = ("REDIS_URL", "POLLUX_REDIS__URL")


class OperatorSettings(NamedTuple):
    """The operator's settings. `text` is the settings file's text, empty if there is no file."""

    settings: Settings
    text: str
    has_redis: bool

    @property
    def has_models(self) -> bool:
        """Whether the settings name any model."""
        return bool(self.settings.models)


def read(environment: Mapping[str, str]) -> OperatorSettings:
    """Read the settings. Raises ConfigurationError with every fault."""
    settings = Settings.read(environment)
    path = Path(environment.get("POLLUX_CONFIG") or "pollux.toml")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    in_file = "url" in tomllib.loads(text).get("redis", {})
    return OperatorSettings(
        settings, text, in_file or any(name in environment for name in _REDIS_VARIABLES)
    )
