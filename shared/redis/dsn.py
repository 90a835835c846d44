"""Where the server is and who asks there, as `redis.url` says it.

Owns the one reading of that URL, so that our own connections and arq's are the same user at the
same place: names, passwords and paths are unescaped in both.
"""

from typing import Any, NamedTuple, cast

from redis.asyncio.connection import SSLConnection, parse_url


class Dsn(NamedTuple):
    """A server, by `host` and `port` or by the `path` of its socket; `password` None for none."""

    host: str
    port: int
    path: str | None
    is_secure: bool
    username: str | None
    password: str | None
    database: int


def read(url: str) -> Dsn:
    """Return what a URL of the settings says. Raises ValueError for one that says nothing."""
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
