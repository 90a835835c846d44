"""Where a generation is polled, cancelled and followed, whichever dialect made it."""

from typing import Final

from api.wire.links import Links

LINKS: Final = Links(
    poll="/api/v1/generate/{generation_id}/status",
    cancel="/api/v1/generate/{generation_id}/cancel",
    events="/api/v1/generate/{generation_id}/events",
)
