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
from api.app import ADMIN, ADMIN_REFUSALS, MOUNTS, REFUSALS

_DOUBLED: Final = "/api/api/"
_NOT_FOUND: Final = 404


@functools.cache
def document(*, is_admin: bool = False) -> dict[str, Any]:
    """Return the document as it is served, read back: the public one, or the operators'."""
    mounts, refusals = (ADMIN, ADMIN_REFUSALS) if is_admin else (MOUNTS, REFUSALS)
    made = openapi.document(mounts, refusals, version="0")
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(made))
    return decoded


def faults(method: str, path: str, status: int, kind: str, content: bytes) -> list[str]:
    """Return what an answer has that was not promised; nothing for what no operation answers."""
    template = _template(path.replace(_DOUBLED, "/api/", 1))
    operation = _of(path)["paths"].get(template, {}).get(method.lower())
    if operation is None:
        return []
    where = f"{method} {template} {status}"
    if status == _NOT_FOUND and path.startswith("/admin/"):
        # At the public door there is no such path.
        return []
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


def _of(path: str | None) -> dict[str, Any]:
    """Return the document that a path is to be found in, if in any."""
    return document(is_admin=(path or "").startswith("/admin/"))


def _said(content: bytes) -> list[bytes]:
    """Return the body, or what each of its server-sent events says."""
    if content.startswith(b"{"):
        return [content]
    return re.findall(rb"^data: (.*)$", content, re.MULTILINE)


@functools.cache
def _template(path: str) -> str | None:
    for template in _of(path)["paths"]:
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path):
            return str(template)
    return None


@functools.cache
def _validator(template: str, method: str, status: str, kind: str) -> Any:  # noqa: ANN401  jsonschema comes without types
    response = _of(template)["paths"][template][method]["responses"][status]
    schema = response["content"][kind]["schema"]
    schemas = _of(template)["components"]["schemas"]
    if status.startswith("2"):
        schemas = {name: _closed(each) for name, each in schemas.items()}
    return jsonschema.Draft202012Validator({**schema, "components": {"schemas": schemas}})


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    return schema | {"additionalProperties": False} if "properties" in schema else schema
