"""Kinds of bodies: the types that each takes, what it refuses, unknown fields at any depth."""

from typing import Any

import msgspec
import pytest

from api.guards import body_kinds, body_types
from api.guards.body import BodyRules
from api.guards.body_kinds import Body, JsonBody, JsonLinesBody, TextBody
from shared.errors import Code, RequestError
from shared.settings import ApiSettings


class Cat(msgspec.Struct, tag="cat", forbid_unknown_fields=True):
    """One of two."""

    lives: int


class Dog(msgspec.Struct, tag="dog", forbid_unknown_fields=True):
    """The other."""

    tricks: list[str] = []


class Letter(msgspec.Struct, forbid_unknown_fields=True):
    """A body with parts at any depth."""

    text: str
    pets: list[Cat | Dog] = []
    words: dict[str, str] = {}
    by_name: dict[str, Dog] = {}
    reply_to: "Letter | None" = None


class Open(msgspec.Struct):
    """A body that ignores what it does not know."""

    text: str


class Nested(msgspec.Struct, forbid_unknown_fields=True):
    """A body of which a part does."""

    parts: list[Open]


ANY_JSON = JsonBody(Letter)
LINES = JsonLinesBody(Letter)
TEXT = TextBody(str)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (ANY_JSON, ""),
        (ANY_JSON, "application/json"),
        (ANY_JSON, "Application/JSON; charset=latin-1"),
        (ANY_JSON, "application/ld+json"),
        (LINES, "application/jsonl"),
        (LINES, "application/x-ndjson; charset=utf-8"),
        (TEXT, "text/plain"),
        (TEXT, 'text/plain; charset="UTF-8"'),
    ],
)
def test_a_kind_takes_its_own_types(body: Body, content_type: str) -> None:
    body_kinds.check_kind(body, {b"content-type": content_type})


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (ANY_JSON, "text/plain"),
        (ANY_JSON, "application/jsonl"),
        (ANY_JSON, "multipart/form-data; boundary=x"),
        (LINES, "application/json"),
        (LINES, "multipart/form-data; boundary=x"),
        (TEXT, "application/json"),
        (TEXT, "text/html"),
        (TEXT, "text/plain; charset=latin-1"),
    ],
)
def test_a_kind_refuses_all_other_types(body: Body, content_type: str) -> None:
    with pytest.raises(RequestError) as refused:
        body_kinds.check_kind(body, {b"content-type": content_type})
    assert refused.value.code is Code.UNSUPPORTED_MEDIA_TYPE


def test_lines_are_decoded_each_and_a_refusal_names_its_line() -> None:
    first, second = LINES.decode(b'{"text":"a"}\r\n\n{"text":"b"}\n')
    assert (first, second) == (Letter("a"), Letter("b"))
    for raw, sentence in (
        (b'{"text":"a"}\n{"text":3}', "Line 2: The field `text` must be a string"),
        (b'{"text":"a"}\n\n{broken', "Line 3: The body is not valid JSON."),
        (b'{"text":"a","x":1}', "Line 1: The field `x` is unknown."),
        (b" \n", "The body has no lines."),
    ):
        with pytest.raises(RequestError, match=sentence):
            LINES.decode(raw)


@pytest.mark.parametrize("raw", [b"\xff", b"a\0b"])
def test_what_is_no_text_is_refused(raw: bytes) -> None:
    assert TEXT.decode(b"\xef\xbb\xbf caf\xc3\xa9\n") == " caf\xe9\n"
    with pytest.raises(RequestError) as refused:
        TEXT.decode(raw)
    assert refused.value.code is Code.INVALID_FIELDS


def test_unknown_fields_are_ignored_at_any_depth_where_the_rule_says_so() -> None:
    known: dict[str, Any] = {
        "text": "a",
        "pets": [{"type": "dog", "tricks": ["sit"]}, {"type": "cat", "lives": 9.0}],
        "words": {"any": "name"},
        "by_name": {"rex": {"type": "dog", "tricks": []}},
        "reply_to": {"text": "b"},
    }
    extended = msgspec.json.decode(msgspec.json.encode(known))
    extended["x"] = {"y": 1}
    extended["pets"][0]["lives"] = 1
    extended["pets"][1]["x"] = [1]
    extended["by_name"]["rex"]["x"] = None
    extended["reply_to"]["x"] = 2.0
    raw = msgspec.json.encode(extended)
    assert ANY_JSON.decode(raw, "ignore") == ANY_JSON.decode(msgspec.json.encode(known))
    with pytest.raises(RequestError, match="is unknown"):
        ANY_JSON.decode(raw, "refuse")
    # What is known is checked all the same.
    with pytest.raises(RequestError, match="`text` must be a string"):
        ANY_JSON.decode(b'{"text":1,"x":2}', "ignore")


def test_a_type_that_ignores_unknown_fields_is_found_at_any_depth() -> None:
    assert not body_types.accepts_unknown_fields(Letter)
    assert not body_types.accepts_unknown_fields(str)
    assert body_types.accepts_unknown_fields(Open)
    assert body_types.accepts_unknown_fields(Nested)


def test_a_dialects_own_size_replaces_the_setting() -> None:
    settings = ApiSettings(body_bytes_max=100_000)
    own, default = BodyRules(bytes_max=500_000), BodyRules()
    assert own.size_max({b"content-length": "400000"}, settings) == 400_000
    assert own.size_max({}, settings) == 500_000
    assert default.size_max({}, settings) == 100_000
    with pytest.raises(RequestError, match="larger than 100000 bytes"):
        default.size_max({b"content-length": "100001"}, settings)
