"""An event of an account's log: what happened to what, and by whose key. Read by all sides.

The log is a stream (`ACCOUNT_LOG`), written by account_log.lua. An entry is one pair: the actor,
and a text of the type's code, the subject and, if there is more to say, JSON, with blanks between.
The actor is the pair's name, because Redis stores equal names of neighbouring entries once. A type
without a code stands there in full, so that a later kind needs none.
"""

import re
from typing import Any, Final

import msgspec

# By name, the code that stands in the log; both are stored, so a code is never used again.
CODES: Final[dict[str, str]] = {
    "generation.completed": "c",
    "generation.failed": "f",
    "generation.cancelled": "x",
    "batch.completed": "C",
    "batch.failed": "F",
    "batch.paused": "P",
    "batch.expired": "E",
    "batch.cancelled": "X",
    "webhook.test": "t",
}
# Of an event that no API key caused.
NOBODY: Final = "-"

# Where what an event is about can be read, by the first word of the type.
_PATHS: Final = {
    "generation": "/api/v1/generate/{}/status",
    "batch": "/api/v1/batches/{}",
}
TYPES: Final[dict[str, str]] = {code: name for name, code in CODES.items()}
_CURSOR: Final = re.compile(r"\d{1,18}-\d{1,18}", re.ASCII)
_TYPE: Final = re.compile(r"[a-z_]{1,32}\.[a-z_]{1,32}", re.ASCII)


class AccountEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event. `id` is its place in the log, too; `created` is in ms.

    `actor` is the id of the API key that asked for what ended, or None. `more` depends on the type:
    `webhook_url` is the one that the request itself named, if it did.
    """

    id: str
    type: str
    actor: str | None
    subject: str
    created: int
    more: dict[str, Any] = {}

    @property
    def path(self) -> str | None:
        """The path of the API at which the subject is read, if there is one."""
        path = _PATHS.get(self.type.partition(".")[0])
        return None if path is None else path.format(self.subject)


def is_cursor(text: str) -> bool:
    """Tell whether a text has the form of an event's id."""
    return _CURSOR.fullmatch(text) is not None


def is_type(text: str) -> bool:
    """Tell whether a text has the form of an event's type; there may be types of later versions."""
    return _TYPE.fullmatch(text) is not None


def order(cursor: str) -> tuple[int, int]:
    """Return an event's place in the log; the first number is its time in ms."""
    at, _, number = cursor.partition("-")
    return int(at), int(number)


def parse(id_: bytes, fields: list[bytes]) -> AccountEvent:
    """Return a stored entry. Raises ValueError for an entry of another form."""
    cursor, actor = id_.decode(), fields[0].decode()
    code, subject, *more = fields[1].decode().split(" ", 2)
    return AccountEvent(
        id=cursor,
        type=TYPES.get(code, code),
        actor=None if actor == NOBODY else actor,
        subject=subject,
        created=order(cursor)[0],
        more=msgspec.json.decode(more[0], type=dict[str, Any]) if more else {},
    )
