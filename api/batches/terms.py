"""What one batch is to be made of, beside its items; what is stored of it; what it may exceed."""

from typing import Final, NamedTuple

from api.guards.rate_limits import rate_headers
from api.wire.fields import InvalidItem
from shared.errors import Code, RefusedError
from shared.redis.functions import Rate
from shared.wire.batch import BatchState

# An answer lists so many items that are wrong.
ERRORS_MAX: Final = 100
_MEGABYTE: Final = 1_000_000


class BatchTerms(NamedTuple):
    """The options of a batch, without a dialect's words. `max_credits` are microcredits.

    `metadata` is JSON. `is_rejecting`: one invalid item refuses the whole.
    """

    metadata: str | None = None
    max_credits: int | None = None
    is_deduplicated: bool = False
    is_rejecting: bool = False
    webhook: str | None = None
    deadline_seconds: int | None = None


class BatchReceipt(NamedTuple):
    """A batch that was stored, by this request or, where it is a replay, by an earlier one."""

    batch: str
    state: BatchState
    total: int
    invalid: int
    errors: tuple[InvalidItem, ...]
    rate: Rate | None
    is_replayed: bool


def quota_exceeded(which: str, used: int, limit: int, rate: Rate | None = None) -> RefusedError:
    """Return the refusal of a batch beyond a quota, by its figure and its limit."""
    match which:
        case "open_batches":
            sentence = f"The account has {used:,} open batches; {limit:,} are allowed."
        case "batch_items":
            sentence = f"The batch has more than the {limit:,} items that are allowed."
        case "batch_lines":
            sentence = (
                f"The body has more than {limit:,} lines, blank ones included, which is twice as "
                "many as the batch may have items."
            )
        case _:
            sentence = (
                f"The account stores {used / _MEGABYTE:,.1f} MB; with this batch it would store "
                f"more than the {limit / _MEGABYTE:,.1f} MB that are allowed."
            )
    return RefusedError(
        sentence,
        Code.QUOTA_EXCEEDED,
        headers=rate_headers(rate),
        details={"quota": which, "used": used, "limit": limit},
    )
