"""Extracts the codes, statuses and sentences of an upstream's error from its many shapes.

Owns the shapes of errors: an object, one in a list, in another's message or in a text. Reads only
the fields of the upstream's own statements. What it repeats of a request (`input`, `flagged_input`,
quoted text) is left out, since those are the caller's words.
"""

import ast
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from worker.providers.refusal_codes import normalize_code

_DEPTH_MAX: Final = 6
_ITEMS_MAX: Final = 16
_TEXT_MAX: Final = 4_096
_STATUS: Final = re.compile(r"[45][0-9][0-9]")
_CODE_KEYS: Final = frozenset(
    {
        *("code", "type", "__type", "status", "reason", "error_code", "error_type", "errorcode"),
        *("errortype", "status_code", "statuscode", "http_code", "kind", "quotaid", "name"),
        *("limit_source", "blockreason"),
    }
)
_TEXT_KEYS: Final = frozenset(
    {
        *("message", "msg", "detail", "error", "error_message", "errormessage", "error_msg"),
        *("error_description", "title", "status_msg", "faultstring", "raw", "reason"),
    }
)
# Of these, what a person is meant to read.
_MESSAGE_KEYS: Final = _TEXT_KEYS - {"title", "raw", "reason"}
_INNER_KEYS: Final = frozenset(
    {
        *("error", "errors", "detail", "details", "message", "innererror", "inner_error"),
        *("metadata", "raw", "base_resp", "fault", "violations", "cause", "response", "body"),
        *("upstream_error", "provider_error", "original_error"),
    }
)
_MINIMAX: Final = "base_resp"
_FLAGGED: Final = "flagged_input"
_PAGE: Final = re.compile(
    r"\s*(<!doctype|<html|<head|<body|<\?xml|<h1|<center|<title)", re.IGNORECASE
)
_ADDRESS: Final = re.compile(r"https?://\S+")
_QUOTED: Final = re.compile(r"\"[^\"]*\"|(?<!\w)'[^']*'(?!\w)|input(_value)?=.*")
_BLANKS: Final = re.compile(r"\s+")
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_JOINTS: Final = re.compile(r"[_\-.:/]+")


class RefusalExplanation:
    """What an upstream's error says; empty if it has no body, or a web page.

    `codes` are in the normal form of the tables; they and `statuses` list outer ones before inner.
    `words` are all sentences in lower case; `tree` is the decoded body, if that was JSON.
    `messages` are what may be quoted, unchanged: inner messages come before those that wrap them.
    """

    def __init__(self) -> None:
        self.codes: list[str] = []
        self.statuses: list[int] = []
        self.words = ""
        self.messages: list[str] = []
        self._found: list[tuple[int, str]] = []
        self.tree: Any = None
        self.is_bare_text = False
        self._sentences: list[str] = []

    @classmethod
    def from_body(cls, body: bytes) -> "RefusalExplanation":
        """Return the explanation in the body of a response."""
        text = body.decode(errors="replace").strip()
        try:
            return cls.of(msgspec.json.decode(body))
        except (msgspec.MsgspecError, RecursionError):
            pass
        explanation = cls()
        if not _PAGE.match(text):
            explanation.is_bare_text = True
            explanation._add_sentence(text, 0)
        return explanation._finish()

    @classmethod
    def of(cls, tree: object) -> "RefusalExplanation":
        """Return the explanation in a decoded error."""
        explanation = cls()
        explanation.tree = tree
        if isinstance(tree, str):
            explanation._add_sentence(tree, 0, is_message=True)
        else:
            explanation._visit(tree, 0)
        return explanation._finish()

    def _finish(self) -> "RefusalExplanation":
        # Gateways repeat sentences: each is kept once, and all together are bounded.
        self.words = " . ".join(dict.fromkeys(self._sentences))[:_TEXT_MAX]
        innermost_first = sorted(self._found, key=lambda found: -found[0])
        self.messages = [message for _, message in innermost_first]
        return self

    def _visit(self, value: object, depth: int, family: str = "") -> None:
        """Read a value's own fields, then the errors inside of it."""
        if depth > _DEPTH_MAX:
            return
        if isinstance(value, list):
            for item in value[:_ITEMS_MAX]:
                self._visit(item, depth + 1)
        elif isinstance(value, dict):
            named = [(str(name).lower(), inner) for name, inner in value.items()]
            for name, inner in named:
                self._add_field(name, inner, depth, family)
            for name, inner in named:
                if name in _INNER_KEYS:
                    self._visit(inner, depth + 1, name if name == _MINIMAX else "")

    def _add_field(self, name: str, value: object, depth: int, family: str) -> None:
        """Read one field."""
        if name == _FLAGGED:
            self.codes.append(normalize_code("content_policy"))
        if name in _CODE_KEYS:
            self._add_code(value, family)
        if name in _TEXT_KEYS and isinstance(value, str):
            self._add_sentence(value, depth, is_message=name in _MESSAGE_KEYS)

    def _add_code(self, code: object, family: str) -> None:
        """Read a code; a number may be a status, also if it is written as text."""
        if isinstance(code, bool) or not isinstance(code, int | str):
            return
        written = str(code).strip()
        if not written or len(written) > _TEXT_MAX // 16:
            return
        if not family and _STATUS.fullmatch(written):
            self.statuses.append(int(written))
            return
        self.codes.append(normalize_code(f"{family}{written}"))
        if not written.isdecimal():
            self._sentences.append(_JOINTS.sub(" ", _HUMP.sub(" ", written)).lower())

    def _add_sentence(self, text: str, depth: int, *, is_message: bool = False) -> None:
        """Read a sentence, and an error that is embedded in it."""
        text = text[: 16 * _TEXT_MAX]
        embedded = [inner for inner in _objects_in(text) if inner is not None]
        for inner in embedded:
            self._visit(inner, depth + 1)
        if is_message and not embedded:
            self._found.append((depth, text))
        cleaned = _QUOTED.sub(" ", _ADDRESS.sub(" ", text[: _TEXT_MAX // 2]))
        self._sentences.append(_BLANKS.sub(" ", cleaned).strip().lower())


def _objects_in(text: str) -> Iterator[object]:
    """Yield the error embedded in a text, as JSON or as a Python literal."""
    begin, end = text.find("{"), text.rfind("}")
    if begin < 0 or end < begin:
        return
    written = text[begin : end + 1]
    try:
        yield msgspec.json.decode(written)
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        if len(written) <= _TEXT_MAX:
            yield _literal(written)


def _literal(written: str) -> object:
    try:
        return ast.literal_eval(written)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
