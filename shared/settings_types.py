"""What a table of the settings is made of, and some of the tables.

Owns the form of every table and the bounds of its numbers, and the tables about keys, logs,
upstreams that fail, rewording, media and the way out. The rest stands in settings.py.
"""

from datetime import date
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

# Larger numbers lose their last digits in Lua, and those beyond 64 bits cannot be told to it.
Positive = Annotated[int, Meta(ge=1, le=2**53 - 1)]
Seconds = Annotated[float, Meta(gt=0, le=7 * 86400)]
Share = Annotated[float, Meta(ge=0, le=1)]
# A hundred years. What Redis cannot count in milliseconds would fail in the midst of an end.
Retention = Annotated[int, Meta(ge=1, le=3_153_600_000)]
CatalogueName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=128)]

# A host, perhaps a port, and what stands below; a secret is no part of an address.
_HOST: Final = r"(\[[0-9A-Fa-f:.]+\]|[^\s/?#:@\[\]]+)(:[0-9]{1,5})?"
HttpUrl = Annotated[str, Meta(pattern=rf"^https?://{_HOST}([/?#]\S*)?$")]

# As browsers send it: scheme and host, in lower case, and perhaps a port; or `*` for any.
Origin = Annotated[
    str,
    Meta(
        pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^\sA-Z/?#@:]+(:[0-9]{1,5})?|[a-z]+://\[[0-9a-f:.]+\](:[0-9]{1,5})?)$"
    ),
]

_LABEL: Final = r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?"
_NETWORK_4: Final = r"[0-9]{1,3}(\.[0-9]{1,3}){3}(/[0-9]{1,2})?"
_NETWORK_6: Final = r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(/[0-9]{1,3})?"
# A network, or the name of a host; what looks like a network and is none is no host's name either.
HostOrNetwork = Annotated[
    str, Meta(pattern=rf"^({_NETWORK_4}|{_NETWORK_6}|{_LABEL}(\.{_LABEL})*)$")
]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file: frozen, closed, every field with a default or required by name."""


class AuthSettings(Section, frozen=True, kw_only=True):
    """How API keys are kept."""

    pepper_env: str = "POLLUX_PEPPER"


class LogSettings(Section, frozen=True, kw_only=True):
    """What is written to standard error, and how."""

    format: Literal["json", "console"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"


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


class EnhancementSettings(Section, frozen=True, kw_only=True):
    """Who rewords unclear messages, how long it may take and how much say; without it, nobody."""

    model: str | None = None
    seconds: Seconds = 3.0
    output_tokens_max: Positive = 512


class MediaSettings(Section, frozen=True, kw_only=True):
    """Pictures that models look at, and what models make, which is kept in `folder`.

    `fetch_seconds` is for each picture, `fetched_bytes_max` for all those of a message; a URL of
    what is kept is good for `url_seconds`, the file is there for `files_seconds`.
    """

    folder: Annotated[str, Meta(min_length=1)] = ".pollux/media"
    file_bytes_max: Positive = 10_485_760
    fetched_bytes_max: Positive = 20_971_520
    fetch_seconds: Seconds = 15.0
    url_seconds: Positive = 86_400
    files_seconds: Positive = 2_592_000


class EgressSettings(Section, frozen=True, kw_only=True):
    """Where URLs that callers or models name may lead, beyond what is public.

    `allow` are networks and names of hosts that are private and yet meant.
    """

    allow: tuple[HostOrNetwork, ...] = ()
    ports: tuple[Annotated[int, Meta(ge=1, le=65_535)], ...] = (80, 443, 8080, 8443)


# Chat completions know a word and a switch, Anthropic adaptive and budget, Gemini level and budget.
ReasoningOption = Literal["none", "effort", "enabled", "adaptive", "budget", "level"]


class ModelRequestSettings(Section, frozen=True, kw_only=True):
    """How a model is asked, which differs from one to the next.

    `limit_option` is the field that bounds its answer; `reasoning_option` is how it is asked to
    think deeply, by `reasoning_effort` where it takes a word, and "none" where it reasons anyway or
    not at all. Without these two its name decides. `usage_option` is "always" where usage is told
    unasked and `stream_options` may be refused. `search_option` is the word that asks for a search
    of the web where chat completions have more than one. `documentation` is where its vendor says
    so, as read on `documentation_date`.
    """

    limit_option: Literal["max_tokens", "max_completion_tokens"] | None = None
    reasoning_option: ReasoningOption | None = None
    reasoning_effort: Annotated[str, Meta(pattern=r"^[a-z]+$")] = "high"
    usage_option: Literal["stream_options", "always"] = "stream_options"
    search_option: Literal["web_search_options", "plugins"] = "web_search_options"
    documentation: str = ""
    documentation_date: date | None = None
