"""What the operator has named, and so what need not be embedded.

Reads the same settings as every process. Knows two things beyond them: whether a Redis was named at
all, and the text of the settings file, to which a catalogue can be added.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from shared.settings import Settings

_REDIS_VARIABLES: Final = ("REDIS_URL", "POLLUX_REDIS__URL")


class OperatorSettings(NamedTuple):
    """The operator's settings. `text` is the settings file as it stands, empty if there is none."""

    settings: Settings
    text: str
    has_redis: bool

    @property
    def has_models(self) -> bool:
        """Tell whether the settings name models of their own."""
        return bool(self.settings.models)


def read(environment: Mapping[str, str]) -> OperatorSettings:
    """Read the settings; raises ConfigurationError with every fault."""
    settings = Settings.read(environment)
    path = Path(environment.get("POLLUX_CONFIG") or "pollux.toml")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    in_file = "url" in tomllib.loads(text).get("redis", {})
    return OperatorSettings(
        settings, text, in_file or any(name in environment for name in _REDIS_VARIABLES)
    )
