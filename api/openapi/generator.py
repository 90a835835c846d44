"""The OpenAPI 3.1 document, made from the same rows and types that answer requests.

Owns the document's form: operations, their parameters, and what each of their responses has. Pure;
made once a process.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from api import errors
from api.endpoints.endpoint import Endpoint
from api.openapi import headers
from api.openapi.schemas import Schema, Schemas
from shared.errors import Code

_PARAMETER: Final = re.compile(r"{(\w+)}")
_SUMMARY: Final = (
    "Chat over HTTP: messages are queued and answered by workers; poll or stream the answers."
)
_ABOUT: Final = (
    "Two dialects share accounts, sessions and generations. Unknown fields of a request are "
    "refused by name, and null counts as absent; replies may get more fields and codes in later "
    "versions. Times are UTC, as in `2026-01-31T12:00:00Z`; credits have at most six decimals.\n\n"
    "Paths in replies (`poll_url`, `events_url`, `cancel_url`) begin at the root of this server. "
    "The paths below `/api/v1` also answer below `/api/api/v1`, for clients that join them to a "
    "base that ends in `/api`."
)
# What any request may be refused with, often before a route is known.
_ALWAYS: Final = (
    Code.INVALID_FIELDS,
    Code.INVALID_API_KEY,
    Code.FORBIDDEN,
    Code.REQUEST_TIMEOUT,
    Code.RATE_LIMITED,
    Code.HEADERS_TOO_LARGE,
    Code.UNAVAILABLE,
    Code.GENERATION_ERROR,
)
_WITH_BODY: Final = (
    Code.MISSING_FIELDS,
    Code.PAYLOAD_TOO_LARGE,
    Code.UNSUPPORTED_MEDIA_TYPE,
)
# Headers of every response of a status.
_ALWAYS_SENT: Final = {
    304: ("ETag", "Poll-Interval-Hint"),
    401: ("WWW-Authenticate",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
_WITH_RATE: Final = frozenset({402, 403, 429, 503})
_EVENTS: Final = (
    "Server-sent events. The `event` of each is the `type` of its `data`, the JSON of an `Event`; "
    "its `id` is where to continue, as `Last-Event-ID` or `after`. Lines that begin with a colon "
    "only keep the connection open."
)
_PATH_PARAMETERS: Final = {
    "account": "An account's name.",
    "generation_id": "The generation's id, as the receipt has it.",
    "key_id": "The id of the API key, as the list of keys has it.",
    "session_id": "The id of the session, which is the conversation.",
    "type": "A companion's `type`, of GET /v1/ai/agents.",
}


class Mount(NamedTuple):
    """A route table under a prefix: its name, its description, the type of its error bodies."""

    tag: str
    about: str
    endpoints: tuple[Endpoint, ...]
    refusal: type[Any]


def document(mounts: Mapping[str, Mount], *, version: str, about: str = _ABOUT) -> dict[str, Any]:
    """Return the document of all mounts' routes."""
    rows = [endpoint for mount in mounts.values() for endpoint in mount.endpoints]
    schemas = Schemas(
        requests=[row.body.shape for row in rows if row.body is not None],
        replies=[
            shape
            for shape in (
                *(mount.refusal for mount in mounts.values()),
                *(shape for row in rows for shape in (row.replies, row.pending_reply, row.stream)),
            )
            if shape is not None
        ],
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pollux",
            "version": version,
            "summary": _SUMMARY,
            "description": about,
        },
        "servers": [{"url": "/", "description": "The server of this document."}],
        "tags": [{"name": mount.tag, "description": mount.about} for mount in mounts.values()],
        "security": [{"key": []}, {"bearer": []}],
        "paths": _paths(mounts, schemas),
        "components": {
            "schemas": schemas.components,
            "headers": {
                header.name: {
                    "description": header.description,
                    "required": header.is_always_sent,
                    "schema": header.schema,
                }
                for header in headers.RESPONSE_HEADERS.values()
            },
            "securitySchemes": {
                "key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-API-Key",
                    "description": "An API key, as it was shown once when it was made.",
                },
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The same API key, as `Authorization: Bearer`.",
                },
            },
        },
    }


def _paths(mounts: Mapping[str, Mount], schemas: Schemas) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for prefix, mount in mounts.items():
        error = _json(schemas.of(mount.refusal))
        for endpoint in mount.endpoints:
            operation = _operation(endpoint, schemas, error)
            operation["tags"] = [mount.tag]
            paths.setdefault(prefix + endpoint.path, {})[endpoint.method.lower()] = operation
    return paths


def _operation(endpoint: Endpoint, schemas: Schemas, error: Schema) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.operation,
        "summary": endpoint.summary,
        "description": " ".join(
            (endpoint.description, f"Needs a key with the scope `{endpoint.scope}`.")
        ).strip(),
        "parameters": list(_parameters(endpoint)),
        "responses": {**_successes(endpoint, schemas), **_refusals(endpoint, error)},
    }
    if endpoint.body is not None:
        shape = endpoint.body.shape
        operation["requestBody"] = {
            "description": schemas.about(shape),
            "required": True,
            "content": _json(schemas.of(shape)),
        }
    return operation


def _successes(endpoint: Endpoint, schemas: Schemas) -> dict[str, Any]:
    content = {} if endpoint.replies is None else _json(schemas.of(endpoint.replies))
    if endpoint.stream is not None:
        content["text/event-stream"] = {
            "schema": {"type": "string", "description": _EVENTS},
            "x-event-data": schemas.of(endpoint.stream),
        }
    about = endpoint.summary if endpoint.replies is None else schemas.about(endpoint.replies)
    found = {endpoint.status: _response(endpoint.status, about, content, endpoint.response_headers)}
    if endpoint.stream is not None and endpoint.replies is None:
        found[204] = _response(204, "The stream ended with that event: there are no more.")
    if "If-None-Match" in endpoint.headers:
        found[304] = _response(304, "Nothing has changed since that `ETag`.")
    if endpoint.pending_reply is not None:
        pending_reply = _json(schemas.of(endpoint.pending_reply))
        found[202] = _response(
            202, schemas.about(endpoint.pending_reply), pending_reply, endpoint.response_headers
        )
    return {str(status): response for status, response in found.items()}


def _refusals(endpoint: Endpoint, error: Schema) -> dict[str, Any]:
    codes = [*endpoint.errors, *_ALWAYS, *(_WITH_BODY if endpoint.body is not None else ())]
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(errors.STATUS[code], []).append(code.value)
    response_headers: dict[int, tuple[str, ...]] = {429: headers.RATE}
    if set(headers.RATE) <= set(endpoint.response_headers):
        response_headers = dict.fromkeys(_WITH_RATE, headers.RATE)
    if endpoint.pending_reply is not None:
        for category, status in errors.FAILURE_STATUS.items():
            label = f"{Code.GENERATION_ERROR.value} ({category})"
            by_status.setdefault(status, []).append(label)
            response_headers[status] = endpoint.response_headers
    return {
        str(status): _response(status, ", ".join(names), error, response_headers.get(status, ()))
        for status, names in sorted(by_status.items())
    }


def _response(
    status: int, about: str, content: Schema | None = None, response_headers: Iterable[str] = ()
) -> dict[str, Any]:
    """Return a response: its description, content, and the headers that it may have."""
    names = (*headers.ALWAYS_SENT, *_ALWAYS_SENT.get(status, ()), *response_headers)
    named = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    response: dict[str, Any] = {"description": about, "headers": named}
    return response | ({"content": content} if content else {})


def _parameters(endpoint: Endpoint) -> Iterable[dict[str, Any]]:
    for name in _PARAMETER.findall(endpoint.path):
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATH_PARAMETERS[name],
            "schema": {"type": "string"},
        }
    for query in endpoint.query:
        yield {
            "name": query.name,
            "in": "query",
            "description": query.description,
            "schema": {"type": query.kind} | ({"enum": query.choices} if query.choices else {}),
        }
    for name in (*endpoint.headers, "X-Request-ID"):
        header = headers.REQUEST_HEADERS[name]
        yield {
            "name": name,
            "in": "header",
            "description": header.description,
            "schema": header.schema,
        }


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}
