"""Parses `redis.url`: where the server is, and as which user to connect.

Our connections and arq's both use this one parser, so that they are the same user at the same
place: names, passwords and paths are unescaped alike.
"""

from typing import Any, NamedTuple, cast

from redis.asyncio.connection import SSLConnection, parse_url


class Dsn(NamedTuple):
    """A server, by `host` and `port` or by the `path` of its socket; `password` may be None."""

    host: str
    port: int
    path: str | None
    is_secure: bool
    username: str | None
    password: str | None
    database: int


def parse(url: str) -> Dsn:
    """Parse a URL of the settings. Raises ValueError for one that is not valid."""
    options = cast("dict[str, Any]", parse_url(url))
    return Dsn(
        host=options.get("host", "localhost"),
        port=int(options.get("port", 6379)),
        path=options.get("path"),
        is_secure=options.get("connection_class") is SSLConnection,
        username=options.get("username"),
        password=options.get("password"),
        database=int(options.get("db", 0)),
    )
