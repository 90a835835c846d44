"""What a table of the settings is made of, and some of the tables.

Owns the form of every table and the bounds of its numbers, and the tables about keys, logs,
upstreams that fail, rewording, media and the way out. The rest stands in settings.py.
"""

from typing import Annotated, Final

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
