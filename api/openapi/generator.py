"""The OpenAPI 3.1 document, made from the same rows and types that answer requests.

Owns the document's form: operations, their parameters, and what each of their responses has. Pure;
made once a process.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from api.endpoints.dialect import Dialect
from api.endpoints.endpoint import Endpoint
from api.errors import FAILURE_STATUS, ErrorShape
from api.follow import server_sent_events
from api.follow.encoders import EventEncoder
from api.openapi import headers
from api.openapi.schemas import Schema, Schemas
from shared.errors import Code

_PARAMETER: Final = re.compile(r"{(\w+)}")
_SUMMARY: Final = (
    "Chat over HTTP: messages are queued and answered by workers; poll or stream the answers."
)
_COUNTS: Final = {1: "One dialect", 2: "Two dialects", 3: "Three dialects"}
_ABOUT: Final = (
    "share accounts, sessions and generations. Unknown fields of a request are "
    "refused by name, and null counts as absent; replies may get more fields and codes in later "
    "versions. Times are UTC, as in `2026-01-31T12:00:00Z`; credits have at most six decimals.\n\n"
    "Paths in replies (`poll_url`, `events_url`, `cancel_url`) begin at the root of this server."
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
_LINES: Final = "JSON lines: each line is one JSON object, and ends with a line feed."
_PATH_PARAMETERS: Final = {
    "account": "An account's name.",
    "batch_id": "The batch's id, as the reply that made it has it.",
    "generation_id": "The generation's id, as the receipt has it.",
    "key_id": "The id of the API key, as the list of keys has it.",
    "session_id": "The id of the session, which is the conversation.",
}


def document(
    dialects: Sequence[Dialect], *, version: str, about: str | None = None
) -> dict[str, Any]:
    """Return the document of all dialects' routes; by default it says what they share."""
    rows = [endpoint for dialect in dialects for endpoint in dialect.endpoints]
    schemas = Schemas(
        requests=[body.shape for row in rows for body in row.bodies],
        replies=[
            shape
            for shape in (
                *(dialect.errors.reply for dialect in dialects),
                *(shape for row in rows for shape in _reply_shapes(row)),
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
            "description": about or _about(dialects),
        },
        "servers": [{"url": "/", "description": "The server of this document."}],
        "tags": [{"name": dialect.name, "description": dialect.about} for dialect in dialects],
        "security": [{"key": []}, {"bearer": []}],
        "paths": _paths(dialects, schemas),
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


def _reply_shapes(row: Endpoint) -> tuple[object, ...]:
    return row.replies, row.pending_reply, row.stream, row.lines


def _about(dialects: Sequence[Dialect]) -> str:
    count = _COUNTS.get(len(dialects), f"{len(dialects)} dialects")
    notes = [dialect.note for dialect in dialects if dialect.note]
    notes += [
        f"Below `{dialect.prefixes[0]}`, unknown fields are ignored."
        for dialect in dialects
        if dialect.bodies.unknown_fields == "ignore"
    ]
    return " ".join((count, _ABOUT, *notes))


def _paths(dialects: Sequence[Dialect], schemas: Schemas) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for dialect in dialects:
        for endpoint in dialect.endpoints:
            operation = _operation(endpoint, dialect, schemas)
            operation["tags"] = [dialect.name]
            path = dialect.prefixes[0] + endpoint.path
            paths.setdefault(path, {})[endpoint.method.lower()] = operation
    return paths


def _operation(endpoint: Endpoint, dialect: Dialect, schemas: Schemas) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.operation,
        "summary": endpoint.summary,
        "description": " ".join(
            (endpoint.description, f"Needs a key with the scope `{endpoint.scope}`.")
        ).strip(),
        "parameters": list(_parameters(endpoint, {**_PATH_PARAMETERS, **dialect.path_parameters})),
        "responses": {
            **_successes(endpoint, dialect.encoder, schemas),
            **_refusals(endpoint, dialect.errors, schemas),
        },
    }
    if endpoint.bodies:
        operation["requestBody"] = {
            "description": " ".join(schemas.about(body.shape) for body in endpoint.bodies),
            "required": endpoint.body is None or endpoint.body.is_required,
            "content": {
                media_type: schema
                for body in endpoint.bodies
                for media_type, schema in _content(body.media_type, schemas.of(body.shape)).items()
            },
        }
    return operation


def _successes(
    endpoint: Endpoint, encoder: EventEncoder | None, schemas: Schemas
) -> dict[str, Any]:
    content = {} if endpoint.replies is None else _json(schemas.of(endpoint.replies))
    if endpoint.lines is not None:
        text = {"type": "string", "description": _LINES}
        content |= {
            "application/x-ndjson": {"schema": text, "x-line-data": schemas.of(endpoint.lines)}
        }
    if endpoint.stream is not None and encoder is not None:
        content |= _stream_content(endpoint.stream, encoder, schemas)
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


def _stream_content(stream: object, encoder: EventEncoder, schemas: Schemas) -> Schema:
    """Return the type of a stream: of the data of server-sent events, or of the whole."""
    media_type = encoder.content_type.partition(";")[0]
    if media_type != server_sent_events.MEDIA_TYPE:
        return _content(media_type, schemas.of(stream))
    text = {"type": "string", "description": _EVENTS}
    return {media_type: {"schema": text, "x-event-data": schemas.of(stream)}}


def _refusals(endpoint: Endpoint, shape: ErrorShape, schemas: Schemas) -> dict[str, Any]:
    codes = [*endpoint.errors, *_ALWAYS, *(_WITH_BODY if endpoint.bodies else ())]
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(shape.status(code), []).append(code.value)
    response_headers: dict[int, tuple[str, ...]] = {429: headers.RATE}
    if set(headers.RATE) <= set(endpoint.response_headers):
        response_headers = dict.fromkeys(_WITH_RATE, headers.RATE)
    if Code.UPLOAD_UNDER_WAY in codes:
        response_headers[shape.status(Code.UPLOAD_UNDER_WAY)] = ("Retry-After",)
    if endpoint.pending_reply is not None:
        for category in FAILURE_STATUS:
            status = shape.failure_status(category)
            label = f"{Code.GENERATION_ERROR.value} ({category})"
            by_status.setdefault(status, []).append(label)
            response_headers[status] = endpoint.response_headers
    error = _content(shape.content_type, schemas.of(shape.reply))
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


def _parameters(endpoint: Endpoint, about: Mapping[str, str]) -> Iterable[dict[str, Any]]:
    for name in _PARAMETER.findall(endpoint.path):
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "description": about[name],
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
    return _content("application/json", schema)


def _content(media_type: str, schema: Schema) -> Schema:
    return {media_type: {"schema": schema}}
