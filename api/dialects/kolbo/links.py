"""Where a generation is polled, cancelled and followed, whichever dialect made it; and batches."""

from typing import Final

from api.wire.links import Links

LINKS: Final = Links(
    poll="/api/v1/generate/{generation_id}/status",
    cancel="/api/v1/generate/{generation_id}/cancel",
    events="/api/v1/generate/{generation_id}/events",
)


def batch_url(batch: str, action: str = "") -> str:
    """Return the path of a batch, or of what can be done with it."""
    return f"/api/v1/batches/{batch}" + (f"/{action}" if action else "")
