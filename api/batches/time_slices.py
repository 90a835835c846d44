"""Cuts long work into slices of a millisecond, between which all other requests have their turn."""

from typing import Final

from shared.clock import Clock

SLICE_SECONDS: Final = 0.001


class TimeSlices:
    """The slices of one upload. Whatever takes time calls `give_way` after each small step."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._now = clock.monotonic
        self._until = self._now() + SLICE_SECONDS

    @property
    def is_used_up(self) -> bool:
        """Whether others should run now; a step that costs very little looks here first."""
        return self._now() >= self._until

    async def give_way(self) -> None:
        """Let others run, if this slice is used up."""
        if self._now() >= self._until:
            await self._clock.sleep(0)
            self._until = self._now() + SLICE_SECONDS
