"""The published document as a referee: is every answer one that it promises?

Owns the match of a request to an operation, and of an answer to its schema. It is stricter than the
document: a success may hold no field that the document does not name.
"""

import functools
import re
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped]  # it comes without types
import msgspec

from api import openapi
from api.app import MOUNTS, REFUSALS

_DOUBLED: Final = "/api/api/"


@functools.cache
def document() -> dict[str, Any]:
    """Return the document as it is served, read back."""
    made = openapi.document(MOUNTS, REFUSALS, version="0")
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(made))
    return decoded


def faults(method: str, path: str, status: int, kind: str, content: bytes) -> list[str]:
    """Return what an answer has that was not promised; nothing for what no operation answers."""
    template = _template(path.replace(_DOUBLED, "/api/", 1))
    operation = document()["paths"].get(template, {}).get(method.lower())
    if operation is None:
        return []
    where = f"{method} {template} {status}"
    if str(status) not in operation["responses"]:
        return [f"{where} is not documented"]
    promised = operation["responses"][str(status)].get("content")
    if promised is None:
        return [f"{where} has a body"] if content else []
    if kind not in promised:
        return [f"{where} is {kind}"]
    validator = _validator(template, method.lower(), str(status), kind)
    return [
        f"{where}: {error.json_path}: {error.message}"
        for said in _said(content)
        for error in validator.iter_errors(msgspec.json.decode(said))
    ]


def _said(content: bytes) -> list[bytes]:
    """Return the body, or what each of its server-sent events says."""
    if content.startswith(b"{"):
        return [content]
    return re.findall(rb"^data: (.*)$", content, re.MULTILINE)


@functools.cache
def _template(path: str) -> str | None:
    for template in document()["paths"]:
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path):
            return str(template)
    return None


@functools.cache
def _validator(template: str, method: str, status: str, kind: str) -> Any:  # noqa: ANN401  jsonschema comes without types
    response = document()["paths"][template][method]["responses"][status]
    schema = response["content"][kind]["schema"]
    schemas = document()["components"]["schemas"]
    if status.startswith("2"):
        schemas = {name: _closed(each) for name, each in schemas.items()}
    return jsonschema.Draft202012Validator({**schema, "components": {"schemas": schemas}})


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    return schema | {"additionalProperties": False} if "properties" in schema else schema
