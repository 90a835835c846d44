"""The OpenAPI 3.1 document, made from the same rows and types that answer requests.

Owns the document's form. Pure; made once a process.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from api import errors
from api.endpoint import Endpoint
from shared.errors import Code

_REF: Final = "#/components/schemas/{name}"
_PARAMETER: Final = re.compile(r"{(\w+)}")
_ABOUT: Final = "Chat in over HTTP, queued, answered by workers; polled or streamed."
_ALWAYS: Final = (
    Code.INVALID_API_KEY,
    Code.FORBIDDEN,
    Code.RATE_LIMITED,
    Code.UNAVAILABLE,
    Code.GENERATION_ERROR,
)
_WITH_BODY: Final = (
    Code.INVALID_FIELDS,
    Code.REQUEST_TIMEOUT,
    Code.PAYLOAD_TOO_LARGE,
    Code.UNSUPPORTED_MEDIA_TYPE,
)


def document(
    mounts: Mapping[str, tuple[Endpoint, ...]],
    refusals: Mapping[str, type[Any]],
    *,
    version: str,
    about: str = _ABOUT,
) -> dict[str, Any]:
    """Return the document of every dialect's routes; `refusals` has each mount's error shape."""
    shapes: set[Any] = set(refusals.values())
    for endpoints in mounts.values():
        for endpoint in endpoints:
            shapes |= {endpoint.replies, endpoint.later, endpoint.stream}
            shapes |= {endpoint.body and endpoint.body.shape}
    ordered = sorted(shapes - {None}, key=str)
    schemas, components = msgspec.json.schema_components(ordered, ref_template=_REF)
    refs = dict(zip(ordered, map(_mended, schemas), strict=True))
    errors_of = {mount: refs[shape] for mount, shape in refusals.items()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pollux",
            "version": version,
            "description": about,
        },
        "security": [{"key": []}, {"bearer": []}],
        "paths": _paths(mounts, refs, errors_of),
        "components": {
            "schemas": {_short(name): _mended(schema) for name, schema in components.items()},
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _paths(
    mounts: Mapping[str, tuple[Endpoint, ...]],
    refs: dict[Any, Any],
    errors_of: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for mount, endpoints in mounts.items():
        for endpoint in endpoints:
            operation = _operation(endpoint, refs, errors_of[mount])
            paths.setdefault(mount + endpoint.path, {})[endpoint.method.lower()] = operation
    return paths


def _operation(endpoint: Endpoint, refs: dict[Any, Any], error: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"{endpoint.method.lower()}_{endpoint.handler.__name__.strip('_')}",
        "summary": endpoint.summary,
        "description": " ".join(
            (endpoint.description, f"Needs a key with the scope `{endpoint.scope}`.")
        ).strip(),
        "parameters": list(_parameters(endpoint)),
        "responses": {**_successes(endpoint, refs), **_refusals(endpoint, error)},
    }
    if "If-None-Match" in endpoint.headers:
        operation["responses"]["304"] = {"description": "Nothing has changed since the tag."}
    if endpoint.body is not None:
        operation["requestBody"] = {"required": True, "content": _json(refs[endpoint.body.shape])}
    return operation


def _successes(endpoint: Endpoint, refs: dict[Any, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"description": endpoint.summary}
    content = {} if endpoint.replies is None else _json(refs[endpoint.replies])
    if endpoint.stream is not None:
        content |= {"text/event-stream": {"schema": refs[endpoint.stream]}}
    if content:
        told["content"] = content
    found = {str(endpoint.status): told}
    if endpoint.stream is not None and endpoint.replies is None:
        found["204"] = {"description": "The stream ended with that event."}
    if endpoint.later is not None:
        found["202"] = {"description": "Not done yet.", "content": _json(refs[endpoint.later])}
    return found


def _parameters(endpoint: Endpoint) -> Iterable[dict[str, Any]]:
    for name in _PARAMETER.findall(endpoint.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
    for query in endpoint.query:
        yield {
            "name": query.name,
            "in": "query",
            "description": query.description,
            "schema": {"type": query.kind},
        }
    for header in (*endpoint.headers, "X-Request-ID"):
        yield {"name": header, "in": "header", "schema": {"type": "string"}}


def _refusals(endpoint: Endpoint, error: dict[str, Any]) -> dict[str, Any]:
    codes = [*endpoint.errors, *_ALWAYS]
    if endpoint.body is not None or endpoint.query:
        codes += _WITH_BODY if endpoint.body is not None else [Code.INVALID_FIELDS]
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(errors.STATUS[code], []).append(code.value)
    if endpoint.later is not None:
        for category, status in errors.FAILURE_STATUS.items():
            told = f"{Code.GENERATION_ERROR.value} ({category})"
            by_status.setdefault(status, []).append(told)
    return {
        str(status): {"description": ", ".join(names), "content": _json(error)}
        for status, names in sorted(by_status.items())
    }


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _short(name: str) -> str:
    """Return a schema's name; where two shapes share one, msgspec tells them apart by modules."""
    if "." not in name:
        return name
    *modules, shape = name.split(".")
    return f"{modules[2]}.{shape}" if modules[:2] == ["api", "dialects"] else shape


def _mended(schema: Any) -> Any:
    """Say the type of an enumeration, which msgspec leaves out and some generators ask for."""
    if isinstance(schema, str) and schema.startswith(_REF.format(name="")):
        return _REF.format(name=_short(schema.removeprefix(_REF.format(name=""))))
    if isinstance(schema, dict):
        mended = {name: _mended(part) for name, part in schema.items()}
        values = mended.get("enum")
        if (
            isinstance(values, list)
            and "type" not in mended
            and all(isinstance(v, str) for v in values)
        ):
            mended["type"] = "string"
        return mended
    return [_mended(part) for part in schema] if isinstance(schema, list) else schema
