"""Field types and the base class of a settings table. Owns the bounds that many fields share."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

# Lua's numbers are doubles: a larger integer loses its last digits there.
Positive = Annotated[int, Meta(ge=1, le=2**53 - 1)]
Seconds = Annotated[float, Meta(gt=0, le=7 * 86400)]
Share = Annotated[float, Meta(ge=0, le=1)]
# A hundred years. Redis refuses a time in milliseconds that overflows, which would fail an end
# halfway.
Retention = Annotated[int, Meta(ge=1, le=3_153_600_000)]
CatalogueName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=128)]

# A host, an optional port, and the rest; credentials are not allowed.
_HOST: Final = r"(\[[0-9A-Fa-f:.]+\]|[^\s/?#:@\[\]]+)(:[0-9]{1,5})?"
HttpUrl = Annotated[str, Meta(pattern=rf"^https?://{_HOST}([/?#]\S*)?$")]

# The form in which browsers send an origin: scheme and host in lower case, an optional port; `*`
# for any.
Origin = Annotated[
    str,
    Meta(
        pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^\sA-Z/?#@:]+(:[0-9]{1,5})?|[a-z]+://\[[0-9a-f:.]+\](:[0-9]{1,5})?)$"
    ),
]

_LABEL: Final = r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?"
_NETWORK_4: Final = r"[0-9]{1,3}(\.[0-9]{1,3}){3}(/[0-9]{1,2})?"
_NETWORK_6: Final = r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(/[0-9]{1,3})?"
# A network or a host name. What looks like a network and is none is not taken for a name.
HostOrNetwork = Annotated[
    str, Meta(pattern=rf"^({_NETWORK_4}|{_NETWORK_6}|{_LABEL}(\.{_LABEL})*)$")
]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A settings table: frozen, refuses unknown names; a field has a default or is required."""
