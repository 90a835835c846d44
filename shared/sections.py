"""What a table of the settings is made of, and the tables about upstreams that fail.

Owns the form that all of them have, and their numbers' bounds. The rest stands in settings.py.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0, le=7 * 86400)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file: frozen, closed, every field with a default or required by name."""


class BreakerSettings(Section, frozen=True, kw_only=True):
    """When a provider's model is spared, by the whole fleet: after this many failures of late.

    They must also be this share of the calls of the window. It then cools, twice as long after each
    probe that fails; one whose credentials are refused cools for `auth_cooling_seconds`.
    """

    failures_min: Annotated[int, Meta(ge=1, le=10_000)] = 5
    failures_share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    window_seconds: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    cooling_seconds: Annotated[float, Meta(ge=0.1, le=3600)] = 10.0
    cooling_seconds_max: Annotated[float, Meta(ge=0.1, le=3600)] = 300.0
    auth_cooling_seconds: Annotated[float, Meta(ge=0.1, le=86_400)] = 300.0


class RetrySettings(Section, frozen=True, kw_only=True):
    """How many calls of a provider may be second tries, in each worker.

    A share of the first tries, and so many a minute even of a quiet provider.
    """

    share: Annotated[float, Meta(ge=0, le=1)] = 0.1
    per_minute_min: Annotated[int, Meta(ge=0, le=100_000)] = 10
