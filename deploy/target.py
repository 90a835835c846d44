"""Which API a command talks to: `--url`, POLLUX_URL, or the `pollux up` that runs in the folder.

Refuses to send that system's key to any other address.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import httpx

from deploy.local import state_folder as folders
from shared.errors import ConfigurationError

_URL: Final = "http://127.0.0.1:8000"
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class Target(NamedTuple):
    """The API to call, and the key to send."""

    url: str
    key: str

    def connect(self, user_agent: str) -> httpx.AsyncClient:
        """Return a client of the API, which its caller closes."""
        url = httpx.URL(self.url)
        return httpx.AsyncClient(
            base_url=url,
            headers={"X-API-Key": self.key, "User-Agent": user_agent},
            # A proxy that the environment names is for other machines, not for this one.
            trust_env=url.host not in _LOOPBACK,
        )


def find_target(url: str | None, environment: Mapping[str, str], folder: Path) -> Target:
    """Return the API to call. Raises ConfigurationError naming what is missing."""
    running_environment = folders.running_environment_of(folder)
    address = url or environment.get("POLLUX_URL") or running_environment.get("POLLUX_URL") or _URL
    key = environment.get("POLLUX_API_KEY")
    if not key and address == running_environment.get("POLLUX_URL"):
        key = running_environment.get("POLLUX_API_KEY")
    if not key:
        raise ConfigurationError(
            [
                f"set POLLUX_API_KEY to a key of {address}; or start `pollux up` here; or, if it "
                "runs elsewhere on this machine, name its state folder with --folder"
            ]
        )
    if not _is_url(address):
        raise ConfigurationError([f"{address!r} is not the URL of an API, such as {_URL}"])
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError(["POLLUX_API_KEY has characters that no API key has"])
    return Target(address, key)


def _is_url(text: str) -> bool:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return url.scheme in {"http", "https"} and bool(url.host)
