"""Creates, lists and deletes an account's own API keys.

A key manages its account's keys within its own rights: a new key has no scope that it lacks and
expires no later; it deletes no key with a scope that it lacks. Redis decides that, by the keys'
records as they are at that moment.
"""

from typing import NamedTuple, NoReturn

from api.accept import accept, rejections
from api.endpoints.endpoint import RequestContext
from api.guards import rate_limits
from shared import ids
from shared.clock import iso
from shared.errors import Code, PolluxError, RefusedError, RequestError, StoreError
from shared.redis import functions
from shared.redis.functions import (
    KeyRefused,
    Rate,
    Rejected,
    ReleaseIdempotencyKeyAsk,
    SubmissionCounted,
)
from shared.stores.accounts import CreatedKey
from shared.telemetry import logs
from shared.wire.account import ApiKey, Scope


class NewKeyRequest(NamedTuple):
    """What a caller asks of a new key; it expires no later than the caller's own."""

    name: str | None
    scopes: tuple[Scope, ...]
    expires_ms: int | None


class KeyReceipt(NamedTuple):
    """A key's record, and the key in clear text; None where an earlier request made it."""

    record: ApiKey
    key: str | None
    rate: Rate | None = None


async def create(
    context: RequestContext, new_key_request: NewKeyRequest, idempotency: accept.Idempotency | None
) -> KeyReceipt:
    """Create a key, or return the record of the one that the repeated request created.

    Raises RequestError (FORBIDDEN, INVALID_API_KEY, INVALID_FIELDS, IDEMPOTENCY_MISMATCH),
    RefusedError (RATE_LIMITED, QUOTA_EXCEEDED, QUEUE_FULL).
    """
    try:
        return await _create(context, new_key_request, idempotency)
    except PolluxError as refused:
        found = await context.state.submissions.stored_receipt(context.caller, idempotency, refused)
        known = await context.state.accounts.find_key(found.api_key or "")
        if known is None:
            raise refused from None
        return KeyReceipt(known, None)


async def _create(
    context: RequestContext, new_key_request: NewKeyRequest, idempotency: accept.Idempotency | None
) -> KeyReceipt:
    state, caller = context.state, context.caller
    if (
        new_key_request.expires_ms is not None
        and new_key_request.expires_ms <= state.clock.now_ms()
    ):
        raise RequestError("The field `expires_at` must be in the future.", Code.INVALID_FIELDS)
    await state.rejections.check_memory(caller)
    keys_max = state.settings.limits.of(caller.account.tier).keys_max
    while True:
        taken = await _take_submission(context, idempotency)
        record = _record(context, new_key_request, taken.id, idempotency)
        new_key = await state.accounts.create_own_key(record, keys_max)
        if isinstance(new_key, CreatedKey):
            _note_created(context, new_key)
            return KeyReceipt(new_key.record, new_key.key, taken.rate)
        if idempotency is not None:
            await _free_receipt(context, idempotency.key, taken.id)
        if new_key.reason != "gone":
            _refuse_new(new_key, taken.rate, keys_max)


def _record(
    context: RequestContext,
    new_key_request: NewKeyRequest,
    key_id: str,
    idempotency: accept.Idempotency | None,
) -> ApiKey:
    own, now = context.caller.key, context.state.clock.now_ms()
    kept_ms = context.state.settings.retention.idempotency_seconds * 1000
    return ApiKey(
        id=key_id,
        account=own.account,
        scopes=new_key_request.scopes,
        created=now,
        expires=own.expires if new_key_request.expires_ms is None else new_key_request.expires_ms,
        name=new_key_request.name,
        created_by=own.id,
        receipt=idempotency.key if idempotency else None,
        receipt_ends=now + kept_ms if idempotency else None,
    )


async def _take_submission(
    context: RequestContext, idempotency: accept.Idempotency | None
) -> SubmissionCounted:
    state, caller = context.state, context.caller
    ask = functions.CountSubmissionAsk(
        account=caller.account.id,
        per_minute=state.settings.limits.of(caller.account.tier).submissions_per_minute,
        id=ids.new_id(),
        **accept.idempotency_arguments(idempotency, state.settings.retention),
    )
    taken = await functions.count_submission(state.redis, caller.root, ask)
    if not isinstance(taken, Rejected):
        return taken
    if taken.reason == "mismatch":
        raise rejections.idempotency_mismatch()
    raise state.rejections.rate_limited(caller.account.id, taken.rate)


def _note_created(context: RequestContext, new_key: CreatedKey) -> None:
    if new_key.key is None:
        accept.note_replayed(context.caller)
        return
    logs.logger().info(
        "API key created",
        account=new_key.record.account,
        key_id=new_key.record.id,
        by=context.caller.key.id,
        scopes=list(new_key.record.scopes),
    )


async def page(context: RequestContext, *, offset: int, limit: int) -> tuple[list[ApiKey], int]:
    """Return the account's keys, newest first, and how many there are."""
    accounts = context.state.accounts
    return await accounts.page_own_keys(context.caller.account.id, offset=offset, limit=limit)


async def delete(context: RequestContext) -> None:
    """Revoke the path's key for good.

    Raises RequestError (NOT_FOUND, FORBIDDEN, INVALID_API_KEY).
    """
    caller, key_id = context.caller, context.path["key_id"]
    if not ids.is_id(key_id):
        raise _unknown_key()
    receipt = await context.state.accounts.delete_own_key(caller.key, key_id)
    if isinstance(receipt, KeyRefused):
        if receipt.reason == "unknown" and receipt.about:
            await _free_receipt(context, receipt.about, key_id)
        _refuse_deletion(receipt)
    if receipt:
        await _free_receipt(context, receipt, key_id)
    if key_id == caller.key.id:
        context.state.identities.forget(context.fields)
    logs.logger().info(
        "API key deleted", account=caller.account.id, key_id=key_id, by=caller.key.id
    )


async def _free_receipt(context: RequestContext, receipt: str, key_id: str) -> None:
    ask = ReleaseIdempotencyKeyAsk(
        account=context.caller.account.id, idempotency=receipt, id=key_id
    )
    await functions.release_idempotency_key(context.state.redis, context.caller.root, ask)


def _refuse_new(refused: KeyRefused, rate: Rate | None, keys_max: int) -> NoReturn:
    match refused.reason:
        case "ended":
            raise _key_ended()
        case "lacks":
            raise RequestError(
                f"The API key lacks the scope `{refused.about}`, so a key that it creates cannot "
                "have it.",
                Code.FORBIDDEN,
            )
        case "outlives":
            raise RequestError(
                f"The API key expires at {iso(refused.about)}, so a key that it creates cannot "
                "expire later.",
                Code.FORBIDDEN,
            )
        case "quota":
            raise RefusedError(
                f"The account has {refused.about:,} API keys; {keys_max:,} are allowed. Deleting "
                "keys makes room.",
                Code.QUOTA_EXCEEDED,
                headers=rate_limits.rate_headers(rate),
                details={"quota": "keys", "used": refused.about, "limit": keys_max},
            )
        case _:
            raise StoreError(f"a new API key was refused as {refused.reason}")


def _refuse_deletion(refused: KeyRefused) -> NoReturn:
    match refused.reason:
        case "ended":
            raise _key_ended()
        case "lacks":
            raise RequestError(
                f"The API key lacks the scope `{refused.about}`, so it cannot delete a key that "
                "has it.",
                Code.FORBIDDEN,
            )
        case _:
            raise _unknown_key()


def _key_ended() -> RequestError:
    return RequestError("The API key was revoked or has expired.", Code.INVALID_API_KEY)


def _unknown_key() -> RequestError:
    return RequestError("There is no such API key.", Code.NOT_FOUND)
