"""The catalogue of the local system: the local model as a settings file, and the shipped models.

Used when the operator's settings name no model: the local model answers, and next to it every model
of the shipped catalogue whose provider's key is set. The local model's rates are not zero, so that
a developer sees credits being charged. Its alias is `gpt-4o`, the model name in the published
examples, so that these run unchanged.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from deploy.local import model
from shared.catalogue import Catalogue
from shared.settings import Settings

SHIPPED: Final = Path(__file__).parents[1] / "catalog.toml"
_PATH: Final = "POLLUX_CATALOGUE__PATH"

_TEXT: Final = """
[[providers]]
name = "local"
label = "Local"
dialect = "openai"
base_url = "http://127.0.0.1:{port}/v1"
api_key_env = "{key_variable}"

[[models]]
identifier = "smollm2-135m"
provider = "local"
upstream = "{upstream}"
name = "SmolLM2 135M"
summary = "A very small model on this machine's CPU: quick, and often wrong."
aliases = ["gpt-4o"]
context_window = {context_tokens}
max_output_tokens = 512
capabilities = ["json"]
input_rate = 0.5
output_rate = 2.0
strengths = {{general = 0.2, writing = 0.2, code = 0.1, analysis = 0.1, math = 0.05}}
recommended = true
estimated_duration_seconds = 2.0
"""


def render(port: int) -> str:
    """Return the catalogue as TOML, with the local model at this port."""
    return _TEXT.format(
        port=port,
        upstream=model.UPSTREAM,
        context_tokens=model.CONTEXT_TOKENS,
        key_variable=model.KEY_VARIABLE,
    )


def read(environment: Mapping[str, str]) -> Catalogue:
    """Return the catalogue that the settings name; raises ConfigurationError with every fault."""
    return Catalogue.of(Settings.read(environment))


def with_shipped(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment, with the shipped catalogue added if the settings name no model."""
    copied = dict(environment)
    return copied if read(copied).models else copied | {_PATH: str(SHIPPED)}
