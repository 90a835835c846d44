"""The URLs of a generation, whichever dialect made it. Pure."""


def poll_url(generation: str) -> str:
    """Return the path of a generation's status."""
    return f"/api/v1/generate/{generation}/status"


def cancel_url(generation: str) -> str:
    """Return the path that cancels a generation."""
    return f"/api/v1/generate/{generation}/cancel"


def events_url(generation: str) -> str:
    """Return the path of a generation's events."""
    return f"/api/v1/generate/{generation}/events"
