"""Credits and usage of an account, in the Kolbo dialect."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal, cast

import msgspec

from api.dialects.kolbo import wire
from api.endpoints import parameters
from api.endpoints.endpoint import RequestContext
from api.server.responses import Response
from shared.errors import Code, RequestError
from shared.stores import ledger
from shared.stores.ledger import DailyUsage, UsageTotals
from shared.wire.account import MICROCREDITS_PER_CREDIT

_EPOCH: Final = date(1970, 1, 1)
BY: Final = ("model", "day", "key")
_DAYS_BY_DEFAULT: Final = 30
_DAYS_MAX: Final = 366

_NAMES: Final[dict[str, Callable[[DailyUsage], str]]] = {
    "model": lambda row: row.model,
    "day": lambda row: _date(row.day).isoformat(),
    "key": lambda row: row.key,
}


async def credits_(context: RequestContext) -> Response:
    """GET /account/credits: what is available, and what is held for answers under way."""
    credit_totals = await context.state.accounts.credit_totals(context.caller.account)
    return Response(
        wire.CreditsReply(
            credits=wire.Credits(
                total=(credit_totals.balance + credit_totals.held) / MICROCREDITS_PER_CREDIT,
                available=credit_totals.balance / MICROCREDITS_PER_CREDIT,
                held=credit_totals.held / MICROCREDITS_PER_CREDIT,
            )
        )
    )


async def usage(context: RequestContext) -> Response:
    """GET /account/usage: tokens and credits used between two days, both included."""
    today = datetime.fromtimestamp(context.state.clock.now_ms() / 1000, UTC).date()
    last = parameters.day(context, "to", today)
    first = parameters.day(context, "from", last - timedelta(days=_DAYS_BY_DEFAULT - 1))
    by = _by(context)
    if not 0 <= (last - first).days < _DAYS_MAX:
        raise RequestError(
            f"`from` must not be after `to`, nor more than {_DAYS_MAX} days before.",
            Code.INVALID_FIELDS,
        )
    days = range((first - _EPOCH).days, (last - _EPOCH).days + 1)
    caller = context.caller
    rows = await ledger.used(context.state.redis, caller.root, caller.account.id, days)
    return Response(
        wire.UsageReply(
            usage=wire.AccountUsage(
                from_=first.isoformat(),
                to=last.isoformat(),
                by=by,
                items=[_item(*pair) for pair in sorted(_summed_by(rows, _NAMES[by]).items())],
                total=_total(_summed_by(rows, lambda _: "").get("", UsageTotals())),
            )
        )
    )


def _by(context: RequestContext) -> Literal["model", "day", "key"]:
    grouping = context.query.get("by", "day")
    if grouping not in BY:
        raise RequestError(
            "The parameter `by` must be `model`, `day` or `key`.", Code.INVALID_FIELDS
        )
    return cast("Literal['model', 'day', 'key']", grouping)


def _summed_by(
    rows: list[DailyUsage], name_of: Callable[[DailyUsage], str]
) -> dict[str, UsageTotals]:
    found: dict[str, UsageTotals] = {}
    for row in rows:
        found[name_of(row)] = found.get(name_of(row), UsageTotals()).plus(row.use)
    return found


def _total(use: UsageTotals) -> wire.UsageTotal:
    return wire.UsageTotal(
        generations=use.generations,
        input_tokens=use.input_tokens,
        cached_input_tokens=use.cached_input_tokens,
        cache_write_tokens=use.cache_write_tokens,
        output_tokens=use.output_tokens,
        reasoning_tokens=use.reasoning_tokens,
        credits=use.captured / MICROCREDITS_PER_CREDIT,
    )


def _item(name: str, use: UsageTotals) -> wire.UsageItem:
    return wire.UsageItem(name=name, **msgspec.structs.asdict(_total(use)))


def _date(day: int) -> date:
    return _EPOCH + timedelta(days=day)
