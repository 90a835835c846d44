"""Signs a payload as the Standard Webhooks specification says. Pure."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable

from shared.wire.webhook import SECRET_PREFIX


def headers(id_: str, timestamp: int, body: bytes, secrets: Iterable[str]) -> dict[str, str]:
    """Return the headers that identify and sign a message; `timestamp` is in seconds.

    With several secrets, the receiver may know any of them.
    """
    message = f"{id_}.{timestamp}.".encode() + body
    return {
        "webhook-id": id_,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(_sign(message, secret) for secret in secrets),
    }


def _sign(message: bytes, secret: str) -> str:
    digest = hmac.new(_key(secret), message, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def _key(secret: str) -> bytes:
    encoded = secret.removeprefix(SECRET_PREFIX)
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error:
        # Something else has written it; the receiver cannot verify it, but gets it.
        return encoded.encode()
