"""Checks responses against the published OpenAPI document.

Owns how a request is matched to an operation, and a response to its headers and its schema. It is
stricter than the document: a field or header that the document does not name is a fault.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped]  # it comes without types
import msgspec

from api.admin.dialect import OPERATORS
from api.app import DIALECTS
from api.openapi import generator

_DOUBLED: Final = "/api/api/"
_NOT_FOUND: Final = 404
# Headers that every HTTP server sends, and those for browsers and proxies only.
_OF_HTTP: Final = re.compile(
    "connection|content-(encoding|length|type)|date|server|transfer-encoding|vary|x-accel-buffering"
    "|access-control-.*"
)


@functools.cache
def document(*, is_admin: bool = False) -> dict[str, Any]:
    """Return the document as it is served: the public one, or that of operators."""
    made = generator.document([OPERATORS] if is_admin else DIALECTS, version="0")
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(made))
    return decoded


def faults(
    method: str, path: str, status: int, headers: Mapping[str, str], content: bytes
) -> list[str]:
    """Return the differences of a response from the document; none where no operation matches."""
    template = _template(path.replace(_DOUBLED, "/api/", 1))
    operation = _document_of(path)["paths"].get(template, {}).get(method.lower())
    if operation is None:
        return []
    where = f"{method} {template} {status}"
    if status == _NOT_FOUND and path.startswith("/admin/"):
        # The public port has no such path.
        return []
    if str(status) not in operation["responses"]:
        return [f"{where} is not documented"]
    response = operation["responses"][str(status)]
    found = [f"{where}: {fault}" for fault in _header_faults(_document_of(path), response, headers)]
    documented, kind = response.get("content"), headers.get("content-type", "").partition(";")[0]
    if documented is None:
        return [*found, f"{where} has a body"] if content else found
    if kind not in documented:
        return [*found, f"{where} is {kind}"]
    validator = _validator(template, method.lower(), str(status), kind)
    return found + [
        f"{where}: {error.json_path}: {error.message}"
        for event_data in _json_parts(kind, content)
        for error in validator.iter_errors(msgspec.json.decode(event_data))
    ]


def _header_faults(
    whole: dict[str, Any], response: dict[str, Any], headers: Mapping[str, str]
) -> Iterator[str]:
    """Yield the headers that are unknown, missing, or do not match their schema."""
    documented = {
        name.lower(): whole["components"]["headers"][reference["$ref"].rpartition("/")[2]]
        for name, reference in response["headers"].items()
    }
    sent = {name.lower(): value for name, value in headers.items()}
    for name in sent.keys() - documented.keys():
        if not _OF_HTTP.fullmatch(name):
            yield f"the header {name} is not documented"
    for name, header in documented.items():
        if name not in sent:
            if header["required"]:
                yield f"the header {name} is missing"
            continue
        value = sent[name]
        is_number = header["schema"]["type"] == "integer" and value.isdecimal()
        checked = jsonschema.Draft202012Validator(header["schema"])
        for error in checked.iter_errors(int(value) if is_number else value):
            yield f"the header {name}: {error.message}"


def _document_of(path: str | None) -> dict[str, Any]:
    """Return the document that describes a path."""
    return document(is_admin=(path or "").startswith("/admin/"))


def _json_parts(kind: str, content: bytes) -> list[bytes]:
    """Return the body, or each of its JSON lines, or the data of each of its server-sent events."""
    if kind == "application/x-ndjson":
        return content.splitlines()
    if content.startswith(b"{"):
        return [content]
    return re.findall(rb"^data: (.*)$", content, re.MULTILINE)


@functools.cache
def _template(path: str) -> str | None:
    for template in _document_of(path)["paths"]:
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path):
            return str(template)
    return None


@functools.cache
def _validator(template: str, method: str, status: str, kind: str) -> Any:  # noqa: ANN401  jsonschema comes without types
    response = _document_of(template)["paths"][template][method]["responses"][status]
    content = response["content"][kind]
    schema = content.get("x-event-data", content.get("x-line-data", content["schema"]))
    parts = _document_of(template)["components"]["schemas"]
    schemas = {name: _closed(each) for name, each in parts.items()}
    return jsonschema.Draft202012Validator({**schema, "components": {"schemas": schemas}})


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    return schema | {"additionalProperties": False} if "properties" in schema else schema
