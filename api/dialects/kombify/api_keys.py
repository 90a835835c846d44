"""The API keys of an account in the Kombify dialect: created, listed and deleted.

Owns what a body may say of a new key, and the defaults.
"""

import re
from typing import Final

from api.accept import accept
from api.dialects.kombify import paging, translate, wire
from api.dialects.kombify.chat import idempotency
from api.endpoints.endpoint import RequestContext
from api.resources import api_keys
from api.server.responses import Response
from shared.clock import instant
from shared.errors import Code, RequestError
from shared.telemetry import sanitize
from shared.wire.account import DEFAULT_SCOPES, SCOPES, ApiKey, Scope

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII)


async def create_key(context: RequestContext) -> Response:
    """POST /keys: create a key with no more rights than the caller's."""
    body, own_key = context.body, context.caller.key
    _check_name(body.name)
    new_key_request = api_keys.NewKeyRequest(
        body.name, _scopes(body.scopes, own_key), _expires_ms(body.expires_at)
    )
    created = await api_keys.create(context, new_key_request, idempotency(context))
    headers = accept.receipt_headers(created.rate, is_replayed=created.key is None)
    headers["location"] = f"/v1/ai/keys/{created.record.id}"
    return Response(translate.new_key(created.record, created.key), status=201, headers=headers)


async def list_keys(context: RequestContext) -> Response:
    """GET /keys: the account's keys, last made first."""
    limit, offset = paging.limit_and_offset(context)
    listed, total = await api_keys.page(context, offset=offset, limit=limit)
    items = [translate.key(each) for each in listed]
    return Response(wire.KeysReply(items=items, total=total, limit=limit, offset=offset))


async def delete_key(context: RequestContext) -> Response:
    """DELETE /keys/{key_id}: revoke a key for good."""
    await api_keys.delete(context)
    return Response(None, status=204)


def _check_name(name: str | None) -> None:
    """Refuse control characters, which could garble a terminal."""
    if name is not None and not sanitize.is_safe(name):
        raise RequestError(
            "The field `name` must be without control characters.", Code.INVALID_FIELDS
        )


def _scopes(asked_scopes: list[Scope] | None, own_key: ApiKey) -> tuple[Scope, ...]:
    """Return the scopes of a new key: those requested, else the defaults that are allowed."""
    if asked_scopes is not None:
        return tuple(scope for scope in SCOPES if scope in asked_scopes)
    allowed = tuple(scope for scope in DEFAULT_SCOPES if scope in own_key.scopes)
    if not allowed:
        raise RequestError(
            "The field `scopes` is required: the API key has none of the default scopes "
            f"({', '.join(DEFAULT_SCOPES)}).",
            Code.MISSING_FIELDS,
        )
    return allowed


def _expires_ms(text: str | None) -> int | None:
    if text is None:
        return None
    expires_ms = instant(text) if _TIME.fullmatch(text) else None
    if expires_ms is None:
        raise RequestError(
            "The field `expires_at` must be a time, as in 2026-01-31T12:00:00Z.",
            Code.INVALID_FIELDS,
        )
    # Whole seconds, as replies show it.
    return expires_ms - expires_ms % 1000
