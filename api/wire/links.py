"""The URLs of a generation, as the replies and events of a dialect name them. Pure."""

from dataclasses import dataclass
from typing import Final

_PLACE: Final = "{generation_id}"


@dataclass(frozen=True, kw_only=True)
class Links:
    """Paths of routes, each with `{generation_id}`; they may be another dialect's routes."""

    poll: str
    cancel: str
    events: str

    def poll_url(self, generation: str) -> str:
        """Return the path of a generation's status."""
        return self.poll.replace(_PLACE, generation)

    def cancel_url(self, generation: str) -> str:
        """Return the path that cancels a generation."""
        return self.cancel.replace(_PLACE, generation)

    def events_url(self, generation: str) -> str:
        """Return the path of a generation's events."""
        return self.events.replace(_PLACE, generation)
