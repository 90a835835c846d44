"""Callers' JSON schemas: which are taken, and which texts match; no schema makes a check slow."""

from typing import Any

import pytest

from shared import json_schema

_PERSON = {
    "type": "object",
    "properties": {"name": {"$ref": "#/$defs/name"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"name": {"type": "string", "pattern": "^[A-Z]"}},
}


def _doubling(levels: int) -> dict[str, Any]:
    """Return a schema whose alternatives double at each level."""
    names = [f"level{number}" for number in range(levels)]
    steps: dict[str, Any] = {
        name: {"anyOf": [{"$ref": f"#/$defs/{below}"}, {"$ref": f"#/$defs/{below}"}]}
        for name, below in zip(names, [*names[1:], "leaf"], strict=True)
    }
    return {"$ref": "#/$defs/level0", "$defs": steps | {"leaf": {"type": "string"}}}


_DOUBLING = {"$defs": _doubling(12)["$defs"]}


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "person"}, "is no valid JSON schema"),
        ({"pattern": "("}, "is no valid JSON schema"),
        ({"$ref": "#"}, "no definition"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}, "to itself"),
        ({"$ref": "#/$defs/none"}, "no definition"),
        ({"$ref": "#/properties/a", "properties": {"a": {}}}, "no definition"),
        ({"$ref": "http://127.0.0.1/schema.json"}, "no definition"),
        ({"$ref": "file:///etc/hostname"}, "no definition"),
        ({"$id": "http://127.0.0.1/", "$ref": "#/$defs/x"}, "uses `$id`"),
        ({"id": "http://127.0.0.1/"}, "uses `id`"),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, "uses `$schema`"),
        ({"properties": {"a": {"$defs": {}}}}, "uses `$defs`"),
        ({"patternProperties": {"a": {}}}, "uses `patternProperties`"),
        ({"allOf": [{}], "unevaluatedProperties": False}, "uses `unevaluatedProperties`"),
        ({"properties": {"definitions": {"$ref": "#/$defs/level0"}}, **_DOUBLING}, "2000 nodes"),
        ({"anyOf": [{"pattern": "a"}] * 17}, "more than 16 patterns"),
        ({"pattern": "\\p{L}{80}N"}, "is no valid JSON schema"),
        ({"maximum": 2**64}, "too large"),
        ({"enum": ["x" * 70_000]}, "is longer than 65536 bytes"),
        (_doubling(12), "has more than 2000 nodes"),
        (_nested(100), "nested deeper than 48 levels"),
    ],
)
def test_schema_that_is_not_taken_has_its_reason(schema: dict[str, Any], words: str) -> None:
    assert words in (json_schema.find_fault(schema) or "")


@pytest.mark.parametrize(
    "schema",
    [
        {},
        _PERSON,
        _doubling(6),
        {"properties": {"$ref": {"type": "string"}, "definitions": {"type": "string"}}},
        {"enum": [{"$id": "x"}, {"$ref": "#"}]},
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "items": True},
    ],
)
def test_schema_within_the_bounds_is_taken(schema: dict[str, Any]) -> None:
    assert json_schema.find_fault(schema) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"name": "Ann", "age": 3}', None),
        ('{"name": "Ann"}', None),
        ('{"name": "ann"}', "does not match"),
        ('{"age": 3}', "required"),
        ('{"name": "Ann", "age": -1}', "less than the minimum"),
        ('{"name": "Ann", "place": 1}', "place"),
        ('{"name": "Ann"', "it is no JSON"),
        ("[" * 100_000, "it is no JSON"),
        ("\ud800", "it is no JSON"),
        ("", "it is no JSON"),
    ],
)
def test_text_matches_or_has_a_flaw(text: str, words: str | None) -> None:
    flaw = json_schema.find_flaw(_PERSON, text)
    assert flaw is None if words is None else words in (flaw or "")


def test_many_values_that_fail_many_alternatives_are_refused_at_the_first() -> None:
    schema = {"type": "array", "items": {"$ref": "#/$defs/level0"}, "$defs": _doubling(6)["$defs"]}
    assert json_schema.find_fault(schema) is None
    flaw = json_schema.find_flaw(schema, "[" + ",".join("1" * 5_000) + "]")
    assert flaw is not None
    assert "anyOf" in flaw


def test_text_beyond_the_work_that_a_check_may_take_is_refused() -> None:
    schema = {"type": "array", "items": {"$ref": "#/$defs/level0"}, "$defs": _doubling(6)["$defs"]}
    flaw = json_schema.find_flaw(schema, "[" + ",".join("1" * 60_000) + "]")
    assert flaw == "it is too long to be checked"


@pytest.mark.parametrize(
    ("text", "is_object"),
    [("{}", True), (' {"a": 1} ', True), ("[]", False), ("x", False), ("{} {}", False)],
)
def test_one_object(text: str, is_object: bool) -> None:
    assert json_schema.is_object(text) is is_object
