"""What callers do to the API keys of their account.

A key administers its account's keys as far as its own rights go: what it makes has no scope that it
lacks and does not expire later, and it deletes no key that has a scope which it lacks. That is
decided in Redis, by the keys' records as they are at that moment.
"""

from typing import NamedTuple, NoReturn

from api import accept, not_accepted
from api.endpoint import Call
from shared import ids
from shared.clock import iso
from shared.errors import Code, PolluxError, RefusedError, RequestError, StoreError
from shared.redis import functions
from shared.redis.functions import FreeReceiptAsk, NotAccepted, NotAllowed, Rate, Taken
from shared.stores.accounts import OwnKey
from shared.telemetry import logs
from shared.wire.account import ApiKey, Scope


class Wish(NamedTuple):
    """What a caller wants of a new key; it expires no later than the caller's own."""

    name: str | None
    scopes: tuple[Scope, ...]
    expires_ms: int | None


class Made(NamedTuple):
    """A key's record, and the key in clear text; None where an earlier request made it."""

    record: ApiKey
    key: str | None
    rate: Rate | None = None


async def create(call: Call, wish: Wish, idempotency: accept.Idempotency | None) -> Made:
    """Make a key, or return the record of the one that a repeated request made.

    Raises RequestError (FORBIDDEN, INVALID_API_KEY, INVALID_FIELDS, IDEMPOTENCY_MISMATCH),
    RefusedError (RATE_LIMITED, QUOTA_EXCEEDED, QUEUE_FULL).
    """
    try:
        return await _create(call, wish, idempotency)
    except PolluxError as refused:
        found = await accept.stored_receipt(call.state, call.caller, idempotency, refused)
        known = await call.state.accounts.find_key(found.api_key or "")
        if known is None:
            raise refused from None
        return Made(known, None)


async def _create(call: Call, wish: Wish, idempotency: accept.Idempotency | None) -> Made:
    state, caller = call.state, call.caller
    if wish.expires_ms is not None and wish.expires_ms <= state.clock.now_ms():
        raise RequestError("The field `expires_at` must be in the future.", Code.INVALID_FIELDS)
    await not_accepted.check_memory(state, caller)
    keys_max = state.settings.limits.of(caller.account.tier).keys_max
    while True:
        taken = await _take_submission(call, idempotency)
        record = _record(call, wish, taken.id, idempotency)
        made = await state.accounts.create_own_key(record, keys_max)
        if isinstance(made, OwnKey):
            _note_made(call, made)
            return Made(made.record, made.key, taken.rate)
        if idempotency is not None:
            await _free_receipt(call, idempotency.key, taken.id)
        if made.reason != "gone":
            _refuse_new(made, taken.rate, keys_max)


def _record(call: Call, wish: Wish, key_id: str, idempotency: accept.Idempotency | None) -> ApiKey:
    own, now = call.caller.key, call.state.clock.now_ms()
    kept_ms = call.state.settings.retention.idempotency_seconds * 1000
    return ApiKey(
        id=key_id,
        account=own.account,
        scopes=wish.scopes,
        created=now,
        expires=own.expires if wish.expires_ms is None else wish.expires_ms,
        name=wish.name,
        created_by=own.id,
        receipt=idempotency.key if idempotency else None,
        receipt_ends=now + kept_ms if idempotency else None,
    )


async def _take_submission(call: Call, idempotency: accept.Idempotency | None) -> Taken:
    state, caller = call.state, call.caller
    ask = functions.TakeSubmissionAsk(
        account=caller.account.id,
        per_minute=state.settings.limits.of(caller.account.tier).submissions_per_minute,
        id=ids.new_id(),
        idempotency=idempotency.key if idempotency else None,
        fingerprint=idempotency.fingerprint if idempotency else None,
        idempotency_ms=state.settings.retention.idempotency_seconds * 1000 if idempotency else None,
    )
    taken = await functions.take_submission(state.redis, caller.root, ask)
    if not isinstance(taken, NotAccepted):
        return taken
    if taken.reason == "mismatch":
        raise not_accepted.mismatch()
    raise not_accepted.limited(state, caller.account.id, taken.rate)


def _note_made(call: Call, made: OwnKey) -> None:
    if made.key is None:
        accept.note_replayed(call.caller)
        return
    logs.logger().info(
        "API key created",
        account=made.record.account,
        key_id=made.record.id,
        by=call.caller.key.id,
        scopes=list(made.record.scopes),
    )


async def page(call: Call, *, offset: int, limit: int) -> tuple[list[ApiKey], int]:
    """Return the account's keys, last made first, and how many there are."""
    accounts = call.state.accounts
    return await accounts.page_own_keys(call.caller.account.id, offset=offset, limit=limit)


async def delete(call: Call) -> None:
    """Take the path's key out of force for good.

    Raises RequestError (NOT_FOUND, FORBIDDEN, INVALID_API_KEY).
    """
    caller, key_id = call.caller, call.path["key_id"]
    if not ids.is_id(key_id):
        raise _unknown()
    receipt = await call.state.accounts.delete_own_key(caller.key, key_id)
    if isinstance(receipt, NotAllowed):
        if receipt.reason == "unknown" and receipt.about:
            await _free_receipt(call, receipt.about, key_id)
        _refuse_deletion(receipt)
    if receipt:
        await _free_receipt(call, receipt, key_id)
    if key_id == caller.key.id:
        call.state.identities.forget(call.fields)
    logs.logger().info(
        "API key deleted", account=caller.account.id, key_id=key_id, by=caller.key.id
    )


async def _free_receipt(call: Call, receipt: str, key_id: str) -> None:
    ask = FreeReceiptAsk(account=call.caller.account.id, idempotency=receipt, id=key_id)
    await functions.free_receipt(call.state.redis, call.caller.root, ask)


def _refuse_new(refused: NotAllowed, rate: Rate | None, keys_max: int) -> NoReturn:
    match refused.reason:
        case "ended":
            raise _ended()
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
                headers=not_accepted.rate_headers(rate),
                details={"quota": "keys", "used": refused.about, "limit": keys_max},
            )
        case _:
            raise StoreError(f"a new API key was refused as {refused.reason}")


def _refuse_deletion(refused: NotAllowed) -> NoReturn:
    match refused.reason:
        case "ended":
            raise _ended()
        case "lacks":
            raise RequestError(
                f"The API key lacks the scope `{refused.about}`, so it cannot delete a key that "
                "has it.",
                Code.FORBIDDEN,
            )
        case _:
            raise _unknown()


def _ended() -> RequestError:
    return RequestError("The API key was revoked or has expired.", Code.INVALID_API_KEY)


def _unknown() -> RequestError:
    return RequestError("There is no such API key.", Code.NOT_FOUND)
