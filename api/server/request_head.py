"""Checks, measures and rewrites the head of a request.

Owns what the parser accepts and we refuse. Works on bytes and knows no connection. The parser has
already refused everything in a target that is not printable ASCII.
"""

import re
from functools import lru_cache
from typing import Final

from shared.errors import Code, RequestError

_VERSIONS: Final = ("1.1", "1.0")
_HASH: Final = ord("#")
_PERCENT: Final = ord("%")

# The absolute form of a target, as proxies get it; credentials in it are refused.
_ABSOLUTE: Final = re.compile(rb"https?://[^/?#@]+([/?].*)?", re.IGNORECASE)
_HOST: Final = re.compile(rb"([A-Za-z0-9._~!$&'()*+,;=%-]*|\[[A-Za-z0-9.:%_~-]+\])(:[0-9]*)?")

Fields = list[tuple[bytes, bytes]]
FieldsByName = dict[bytes, str]


def origin_form(target: bytes) -> bytes:
    """Return path and query of a target in absolute form; any other target unchanged."""
    absolute = _ABSOLUTE.fullmatch(target) if target[:1] != b"/" else None
    if absolute is None:
        return target
    rest = absolute[1] or b""
    return rest if rest.startswith(b"/") else b"/" + rest


def fault(method: bytes, target: bytes, version: str, fields: Fields) -> RequestError | None:
    """Return what is wrong with a request line or Host header, where no route could notice."""
    if target[:1] != b"/" or method == b"CONNECT":
        return invalid("The request's target must be a path.")
    if _HASH in target or (_PERCENT in target and b"%00" in target):
        return invalid("The request's target must be without a fragment and without NUL.")
    if version not in _VERSIONS:
        return invalid("The request's version must be HTTP/1.1 or HTTP/1.0.")
    hosts = []
    for name, value in fields:
        if name == b"host":
            hosts.append(value)
        elif name == b"transfer-encoding" and value.lower() != b"chunked":
            return invalid("The request's body may be chunked, and not encoded in any other way.")
    return _host_fault(hosts, version)


def _host_fault(hosts: list[bytes], version: str) -> RequestError | None:
    if len(hosts) != 1 and (hosts or version == "1.1"):
        return invalid("The request must have one Host header.")
    if hosts and not _is_host(hosts[0]):
        return invalid("The request's Host header must be a host, and perhaps a port.")
    return None


@lru_cache(maxsize=64)
def _is_host(value: bytes) -> bool:
    return _HOST.fullmatch(value) is not None


def invalid(message: str) -> RequestError:
    """Return the refusal of a request that is not valid HTTP."""
    return RequestError(message, Code.INVALID_FIELDS)


def too_large(size_max: int) -> RequestError:
    """Return the refusal of a head that is too large."""
    message = f"The request's head is larger than {size_max} bytes."
    return RequestError(message, Code.HEADERS_TOO_LARGE)


def by_name(fields: Fields) -> FieldsByName:
    """Return the value of the first field of each name."""
    return {name: value.decode("latin-1") for name, value in reversed(fields)}


def size(method: bytes, target: bytes, fields: Fields) -> int:
    """Return the size of a head in bytes, with one space wherever several may stand."""
    frame = len(method) + len(target) + len(b"  HTTP/1.1\r\n\r\n")
    return frame + sum(len(name) + len(value) + len(b": \r\n") for name, value in fields)


def without_upgrade(method: bytes, target: bytes, version: str, fields: Fields) -> bytes:
    """Return the head without its request for another protocol."""
    lines = [b"%b %b HTTP/%b" % (method, target, version.encode())]
    lines += [name + b": " + value for name, value in fields if name != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])
