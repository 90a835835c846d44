"""Makes and checks identifiers and API keys.

An id is 23 letters and digits with 130 random bits; it carries no meaning and no order. An API key
is a prefix that secret scanners recognise, 160 random bits and a checksum: a mistyped key is
refused without asking Redis, and Redis stores only an HMAC of it.
"""

import hashlib
import hmac
import os
import re
import secrets
import zlib
from functools import lru_cache

ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
KEY_PREFIX = "pollux_live_"

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BASE = len(_ALPHABET)
_ID_DIGITS = 23
# 256 is not a multiple of 62: some digits stand for five byte values, others for four, which leaves
# a digit 5.67 bits.
_DIGIT_OF_BYTE = bytes(_ALPHABET.encode()[byte % _BASE] for byte in range(256))
_SECRET_DIGITS = 27
_CHECKSUM_DIGITS = 6
# The characters after a key's prefix.
KEY_DIGITS = _SECRET_DIGITS + _CHECKSUM_DIGITS
_ID = re.compile(ID_PATTERN)


def new_id() -> str:
    """Return a new id: 23 letters and digits, 130 random bits."""
    return os.urandom(_ID_DIGITS).translate(_DIGIT_OF_BYTE).decode()


def is_id(text: str) -> bool:
    """Tell whether a text has the form of an id, and so may become part of a Redis key."""
    return _ID.match(text) is not None and "\n" not in text


def new_key() -> str:
    """Return a new API key in clear text; it is shown once and never stored."""
    secret = _digits(secrets.randbits(160), _SECRET_DIGITS)
    return KEY_PREFIX + secret + _checksum(secret)


def is_key(text: str) -> bool:
    """Tell whether a text is a well-formed API key: prefix, length and checksum."""
    return len(text) == len(KEY_PREFIX) + KEY_DIGITS and _is_key(text)


@lru_cache(maxsize=4096)
def _is_key(text: str) -> bool:
    secret = text[len(KEY_PREFIX) : len(KEY_PREFIX) + _SECRET_DIGITS]
    return text.isascii() and text == KEY_PREFIX + secret + _checksum(secret)


def key_hash(key: str, pepper: bytes) -> str:
    """Return the hash under which a key is stored: HMAC-SHA-256 with the pepper, in hex."""
    return hmac.new(pepper, key.encode(), hashlib.sha256).hexdigest()


def _checksum(secret: str) -> str:
    return _digits(zlib.crc32(secret.encode()), _CHECKSUM_DIGITS)


def _digits(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, _BASE)
        digits.append(_ALPHABET[digit])
    return "".join(digits)
