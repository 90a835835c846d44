"""A dialect as one object: where it answers, its rows, and how it differs from other dialects.

Everything outside of a dialect's folder reads it from here and knows no dialect by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from api.endpoints.endpoint import Endpoint
from api.errors import ErrorShape, ErrorShapes
from api.follow.encoders import EventEncoder
from api.guards import body_types
from api.guards.body import BodyRules
from api.wire import error_reply
from api.wire.links import Links

_DEFAULT_BODIES: Final = BodyRules()


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """A route table below one or more prefixes, of which the document shows the first.

    `name` is its tag in the document, `about` describes it there, and `note` is what a reader of
    the whole document should know. `path_parameters` describe those that no other dialect has.
    `links` are the paths that its replies name, and `encoder` writes its streams; None where it has
    none. The functions of `errors` are those of a module: the processes of `--workers` get them by
    name.
    """

    name: str
    about: str
    prefixes: tuple[str, ...]
    endpoints: tuple[Endpoint, ...]
    errors: ErrorShape
    bodies: BodyRules = _DEFAULT_BODIES
    links: Links | None = None
    encoder: EventEncoder | None = None
    note: str = ""
    path_parameters: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError where a body would ignore what this dialect says it refuses.

        Or where a row has a stream and nothing encodes it.
        """
        if self.encoder is None and any(row.stream is not None for row in self.endpoints):
            raise ValueError(f"{self.name} streams events, and has no encoder")
        if self.bodies.unknown_fields == "ignore":
            return
        for row in self.endpoints:
            if any(body_types.accepts_unknown_fields(body.shape) for body in row.bodies):
                raise ValueError(f"{self.name}: the body of {row.route} ignores unknown fields")


def error_shapes(dialects: Sequence[Dialect]) -> ErrorShapes:
    """Return how errors are answered, by the prefixes of the dialects."""
    return ErrorShapes(
        error_reply.ERRORS,
        {prefix: dialect.errors for dialect in dialects for prefix in dialect.prefixes},
    )


def check(dialects: Sequence[Dialect]) -> None:
    """Raise ValueError for a prefix that two dialects have, or a link that leads nowhere."""
    prefixes = [prefix for dialect in dialects for prefix in dialect.prefixes]
    if len(set(prefixes)) < len(prefixes):
        raise ValueError(f"two dialects answer below one prefix: {prefixes}")
    paths = {
        prefix + row.path
        for dialect in dialects
        for prefix in dialect.prefixes
        for row in dialect.endpoints
    }
    for dialect in dialects:
        links = dialect.links
        if links is not None and not {links.poll, links.cancel, links.events} <= paths:
            raise ValueError(f"a link of {dialect.name} leads to no route: {links}")
