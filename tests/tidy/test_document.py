"""The published document, as generators of clients read it: names, types and descriptions."""

import re
from collections.abc import Iterator
from typing import Any, Final

import pytest

from api.openapi import headers
from api.server import cors
from tests.support import openapi_document

_OPERATION: Final = re.compile("[a-z]+(_[a-z]+)*")
_VERBS: Final = set(
    "cancel chat create delete discard follow get list pause prefer rename replay resume "
    "retry rotate set submit test".split()
)
_SCHEMA: Final = re.compile("[A-Z][A-Za-z]+")
_TYPED: Final = ("type", "$ref", "anyOf")
_WORDS_MIN: Final = 2

both = pytest.mark.parametrize("is_admin", [False, True], ids=["public", "operators"])


def _operations(made: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in made["paths"].items():
        for method, operation in item.items():
            yield f"{method} {path}", operation


def _values(where: str, schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a schema and every schema inside it, with its place."""
    yield where, schema
    for name, part in schema.get("properties", {}).items():
        yield from _values(f"{where}.{name}", part)
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield from _values(f"{where} {keyword}", schema[keyword])
    for number, kind in enumerate(schema.get("anyOf", ())):
        yield from _values(f"{where} kind {number}", kind)


def _is_described(part: dict[str, Any]) -> bool:
    text = part.get("description", "")
    return len(text.split()) >= _WORDS_MIN and text.rstrip().endswith(".")


@both
def test_every_field_is_described(is_admin: bool) -> None:
    schemas = openapi_document.document(is_admin=is_admin)["components"]["schemas"]
    missing = [name for name, schema in schemas.items() if not _is_described(schema)]
    missing += [
        f"{name}.{field}"
        for name, schema in schemas.items()
        for field, value in schema.get("properties", {}).items()
        if not _is_described(value)
    ]
    assert not missing


@both
def test_every_schema_has_a_type_and_a_title_of_its_own(is_admin: bool) -> None:
    schemas = openapi_document.document(is_admin=is_admin)["components"]["schemas"]
    values = [pair for name, schema in schemas.items() for pair in _values(name, schema)]
    assert [where for where, value in values if not any(key in value for key in _TYPED)] == []
    assert {name: schema["title"] for name, schema in schemas.items()} == {
        name: name for name in schemas
    }
    assert [name for name in schemas if not _SCHEMA.fullmatch(name)] == []


@both
def test_every_operation_has_a_readable_name_of_its_own(is_admin: bool) -> None:
    operations = [each for _, each in _operations(openapi_document.document(is_admin=is_admin))]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    unreadable = [
        name
        for name in names
        if not _OPERATION.fullmatch(name) or name.partition("_")[0] not in _VERBS
    ]
    assert not unreadable


@both
def test_every_part_of_an_operation_is_described(is_admin: bool) -> None:
    made = openapi_document.document(is_admin=is_admin)
    tags = {tag["name"] for tag in made["tags"] if _is_described(tag)}
    missing = []
    for where, operation in _operations(made):
        assert set(operation["tags"]) <= tags
        parts = {f"{where} {each['name']}": each for each in operation["parameters"]}
        if "requestBody" in operation:
            parts[f"{where} body"] = operation["requestBody"]
        missing += [
            name for name, part in {where: operation, **parts}.items() if not _is_described(part)
        ]
        missing += [
            f"{where} {status}"
            for status, each in operation["responses"].items()
            if not each["description"]
        ]
    missing += [
        name for name, each in made["components"]["headers"].items() if not _is_described(each)
    ]
    assert not missing


def test_pages_may_send_and_read_every_header() -> None:
    assert headers.REQUEST_HEADERS.keys() <= set(cors.REQUEST_FIELDS)
    # A page may read this one anyway, and the other is the browser's own.
    readable = headers.RESPONSE_HEADERS.keys() - {"Cache-Control", "X-Content-Type-Options"}
    assert readable <= set(cors.RESPONSE_FIELDS)


@both
def test_the_document_names_its_server(is_admin: bool) -> None:
    assert [
        server["url"] for server in openapi_document.document(is_admin=is_admin)["servers"]
    ] == ["/"]
