"""The sentence for a body that does not fit: the field and all that it may be, in words of JSON."""

from typing import Annotated, Final, Literal

import msgspec
import pytest
from msgspec import Meta

from api.guards.body_kinds import JsonBody
from shared.errors import Code, RequestError
from tests.support.mounts import ADMIN_MOUNTS, MOUNTS


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    """A part of a body."""

    size: int


class Shape(msgspec.Struct, forbid_unknown_fields=True):
    """A body with a field of every kind."""

    text: str
    short: Annotated[str, Meta(min_length=1, max_length=9)] | None = None
    word: Literal["slow", "fast"] | None = None
    whole: Annotated[int, Meta(ge=1, le=10)] | None = None
    number: Annotated[float, Meta(gt=0, lt=2)] | None = None
    truth: bool | None = None
    many: Annotated[list[Annotated[str, Meta(max_length=3)]], Meta(max_length=2)] | None = None
    named: Annotated[dict[Annotated[str, Meta(max_length=2)], int], Meta(max_length=2)] | None = (
        None
    )
    inner: Inner | None = None
    either: int | str | None = None


SENTENCES: Final = {
    '"word": "none"': "The field `word` must be `fast` or `slow`.",
    '"word": 3': "The field `word` must be `fast` or `slow`, not a number.",
    '"whole": "3"': "The field `whole` must be a whole number, at least 1 and at most 10, "
    "not a string.",
    '"whole": 11': "The field `whole` must be a whole number, at least 1 and at most 10.",
    '"whole": 11.0': "The field `whole` must be a whole number, at least 1 and at most 10.",
    '"whole": 1e300': "The field `whole` must be a whole number, at least 1 and at most 10.",
    '"whole": 1e999': "The field `whole` must be a whole number, at least 1 and at most 10.",
    '"whole": 2.5': "The field `whole` must be a whole number, at least 1 and at most 10, "
    "without a fraction.",
    '"number": 2': "The field `number` must be a number, above 0 and below 2.",
    '"number": true': "The field `number` must be a number, above 0 and below 2, "
    "not true or false.",
    '"truth": 1': "The field `truth` must be true or false, not a number.",
    '"short": ""': "The field `short` must be a string of at least 1 and at most 9 characters.",
    '"many": {}': "The field `many` must be an array of at most 2 items, not an object.",
    '"many": ["", "", ""]': "The field `many` must be an array of at most 2 items.",
    '"many": ["", null]': "The field `many[1]` must be a string of at most 3 characters, not null.",
    '"many": ["long"]': "The field `many[0]` must be a string of at most 3 characters.",
    '"named": []': "The field `named` must be an object of at most 2 names, not an array.",
    '"named": {"a": 1.5}': "Each value in the field `named` must be a whole number, "
    "without a fraction.",
    '"named": {"aaa": 1}': "Each name in the field `named` must be a string of at most "
    "2 characters.",
    '"inner": 1': "The field `inner` must be an object, not a number.",
    '"inner": {"size": []}': "The field `inner.size` must be a whole number, not an array.",
    '"either": []': "The field `either` must be a whole number or a string, not an array.",
    '"other": 1': "The field `other` is unknown.",
}
BODIES: Final = {
    "[]": "The body must be an object, not an array.",
    "3": "The body must be an object, not a number.",
    "null": "The body must be an object, not null.",
    '{"text": 3}': "The field `text` must be a string, not a number.",
} | {f'{{"text": "t", {field}}}': sentence for field, sentence in SENTENCES.items()}


@pytest.mark.parametrize(("raw", "sentence"), BODIES.items(), ids=BODIES)
def test_a_body_that_does_not_fit_is_told_what_would(raw: str, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        JsonBody(Shape).decode(raw.encode())
    assert (caught.value.message, caught.value.code) == (sentence, Code.INVALID_FIELDS)


@pytest.mark.parametrize("raw", ["{}", '{"text": null}', '{"text": "t", "inner": {}}'])
def test_a_field_that_is_not_there_is_missing(raw: str) -> None:
    with pytest.raises(RequestError, match="is required") as caught:
        JsonBody(Shape).decode(raw.encode())
    assert caught.value.code is Code.MISSING_FIELDS


def test_a_whole_number_may_be_written_with_a_fraction_of_zero() -> None:
    raw = b'\xef\xbb\xbf{"text": "t", "whole": 6.0, "number": 1.0, "named": {"a": 2e0}}'
    value = JsonBody(Shape).decode(raw)
    assert (value.whole, value.number, value.named) == (6, 1.0, {"a": 2})
    assert [type(each) for each in (value.whole, value.number)] == [int, float]


def test_no_body_of_the_api_is_refused_in_the_words_of_python() -> None:
    words = ("`str`", "`int`", "`float`", "`bool`", "null`", "enum", "something else")
    values = ("3", "true", '"x"', "[]", "{}", "-1", "2.5", "[3]", '{"a": 3}', '{"a": []}')
    bodies = {
        endpoint.body
        for endpoints in (MOUNTS | ADMIN_MOUNTS).values()
        for endpoint in endpoints
        if endpoint.body is not None
    }
    sentences = []
    for body in bodies:
        for field in msgspec.structs.fields(body.shape):
            for value in values:
                try:
                    body.decode(f'{{"{field.encode_name}": {value}}}'.encode(), "refuse")
                except RequestError as error:
                    sentences.append(error.message)
    assert len(sentences) > 100
    assert not [each for each in sentences for word in words if word in each]
