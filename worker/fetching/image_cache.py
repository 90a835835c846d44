"""Keeps the images of deferred turns in memory until this worker attempts them again.

Owns how much is kept, and for how long. Guarantees nothing: a missing image is fetched again.
"""

from typing import Final, NamedTuple

from shared.clock import Clock
from worker.providers.contract import Image

BYTES_MAX: Final = 64 * 1024 * 1024
_SECONDS_MAX: Final = 900.0

Images = tuple[Image, ...]


class _Held(NamedTuple):
    images: Images
    size: int
    until: float


class ImageCache:
    """The images of deferred turns by account and generation, oldest first.

    Beyond the byte limit the account that holds most loses its oldest turn, so that one account
    cannot displace the images of an account that holds less.
    """

    def __init__(self, clock: Clock, bytes_max: int = BYTES_MAX) -> None:
        self._clock = clock
        self._bytes_max = bytes_max
        self._held: dict[tuple[str, str], _Held] = {}

    def keep(self, account: str, generation: str, images: Images) -> None:
        """Keep a turn's images for its next attempt."""
        self._drop_old()
        if images:
            size = sum(len(image.content) for image in images)
            until = self._clock.monotonic() + _SECONDS_MAX
            self._held[account, generation] = _Held(images, size, until)
            self._make_room()

    def take(self, account: str, generation: str) -> Images | None:
        """Remove and return a turn's images; None if they are not kept here."""
        self._drop_old()
        held = self._held.pop((account, generation), None)
        return None if held is None else held.images

    def _drop_old(self) -> None:
        now = self._clock.monotonic()
        for key in [key for key, held in self._held.items() if held.until <= now]:
            del self._held[key]

    def _make_room(self) -> None:
        sizes: dict[str, int] = {}
        for (account, _), held in self._held.items():
            sizes[account] = sizes.get(account, 0) + held.size
        while sum(sizes.values()) > self._bytes_max:
            largest = max(sizes, key=sizes.__getitem__)
            oldest = next(key for key in self._held if key[0] == largest)
            sizes[largest] -= self._held.pop(oldest).size
