"""The head of a request: what it may say, how large it is, and how it reads without an upgrade.

Owns what the parser lets through and we do not. Refuses to know connections: these are questions
about bytes. The parser has refused all that is not printable ASCII in a target by itself.
"""

from typing import Final

from shared.errors import Code, RequestError

_VERSIONS: Final = ("1.1", "1.0")
_HASH: Final = ord("#")
_PERCENT: Final = ord("%")

Fields = list[tuple[bytes, bytes]]


def fault(method: bytes, target: bytes, version: str) -> RequestError | None:
    """Return what is wrong with a request's line, as far as no route could tell."""
    if target[:1] != b"/" or method == b"CONNECT":
        return invalid("The request's target must be a path.")
    if _HASH in target or (_PERCENT in target and b"%00" in target):
        return invalid("The request's target must be without a fragment and without NUL.")
    if version not in _VERSIONS:
        return invalid("The request's version must be HTTP/1.1 or HTTP/1.0.")
    return None


def invalid(message: str) -> RequestError:
    """Return the refusal of a request that is not as HTTP has it."""
    return RequestError(message, Code.INVALID_FIELDS)


def size(method: bytes, target: bytes, fields: Fields) -> int:
    """Return how many bytes the head has, with a single space where any number may stand."""
    frame = len(method) + len(target) + len(b"  HTTP/1.1\r\n\r\n")
    return frame + sum(len(name) + len(value) + len(b": \r\n") for name, value in fields)


def without_upgrade(method: bytes, target: bytes, version: str, fields: Fields) -> bytes:
    """Return the head as it would be, had no other protocol been asked for."""
    lines = [b"%b %b HTTP/%b" % (method, target, version.encode())]
    lines += [name + b": " + value for name, value in fields if name != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])
