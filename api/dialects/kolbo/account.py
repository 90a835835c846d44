"""What an account has and what it has used, as the Kolbo dialect tells it."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal, cast

import msgspec

from api import parameters
from api.dialects.kolbo import wire
from api.endpoint import Answer, Call
from shared.errors import Code, RequestError
from shared.stores import ledger
from shared.stores.ledger import Use, Used

_MICROCREDITS: Final = 1_000_000
_EPOCH: Final = date(1970, 1, 1)
BY: Final = ("model", "day", "key")
_DAYS_BY_DEFAULT: Final = 30
_DAYS_MAX: Final = 366

_NAMES: Final[dict[str, Callable[[Used], str]]] = {
    "model": lambda row: row.model,
    "day": lambda row: _date(row.day).isoformat(),
    "key": lambda row: row.key,
}


async def credits_(call: Call) -> Answer:
    """GET /account/credits: what there is, and what is held."""
    books = await call.state.accounts.books(call.caller.account)
    return Answer(
        wire.CreditsReply(
            credits=wire.Credits(
                total=(books.balance + books.held) / _MICROCREDITS,
                available=books.balance / _MICROCREDITS,
                held=books.held / _MICROCREDITS,
            )
        )
    )


async def usage(call: Call) -> Answer:
    """GET /account/usage: what answers used and cost, from one day to another, both included."""
    today = datetime.fromtimestamp(call.state.clock.now_ms() / 1000, UTC).date()
    last = parameters.day(call, "to", today)
    first = parameters.day(call, "from", last - timedelta(days=_DAYS_BY_DEFAULT - 1))
    by = _by(call)
    if not 0 <= (last - first).days < _DAYS_MAX:
        raise RequestError(
            f"`from` must not be after `to`, nor more than {_DAYS_MAX} days before.",
            Code.INVALID_FIELDS,
        )
    days = range((first - _EPOCH).days, (last - _EPOCH).days + 1)
    caller = call.caller
    rows = await ledger.used(call.state.redis, caller.root, caller.account.id, days)
    return Answer(
        wire.UsageReply(
            usage=wire.AccountUsage(
                from_=first.isoformat(),
                to=last.isoformat(),
                by=by,
                items=[_item(*pair) for pair in sorted(_together(rows, _NAMES[by]).items())],
                total=_total(_together(rows, lambda _: "").get("", Use())),
            )
        )
    )


def _by(call: Call) -> Literal["model", "day", "key"]:
    asked = call.query.get("by", "day")
    if asked not in BY:
        raise RequestError(
            "The parameter `by` must be `model`, `day` or `key`.", Code.INVALID_FIELDS
        )
    return cast("Literal['model', 'day', 'key']", asked)


def _together(rows: list[Used], name_of: Callable[[Used], str]) -> dict[str, Use]:
    found: dict[str, Use] = {}
    for row in rows:
        found[name_of(row)] = found.get(name_of(row), Use()).plus(row.use)
    return found


def _total(use: Use) -> wire.UsageTotal:
    return wire.UsageTotal(
        generations=use.generations,
        input_tokens=use.input_tokens,
        output_tokens=use.output_tokens,
        reasoning_tokens=use.reasoning_tokens,
        credits=use.captured / _MICROCREDITS,
    )


def _item(name: str, use: Use) -> wire.UsageItem:
    return wire.UsageItem(name=name, **msgspec.structs.asdict(_total(use)))


def _date(day: int) -> date:
    return _EPOCH + timedelta(days=day)
