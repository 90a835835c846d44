"""`pollux batch run --estimate`: what a file would cost and when it would end. Sends no prompt.

Owns the reckoning, which it prints with the result: tokens as the API estimates them, the models'
rates and durations as the API lists them, an assumed length of answers, and the rate of the
account's last batch.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from deploy.batch.batch_api import BATCHES, BatchApi
from deploy.batch.display import Display, amount, duration
from deploy.batch.prompts import Prompts
from deploy.batch.wire import Batch, decode_page
from deploy.output import print_json, print_line, print_table
from deploy.target import Target
from shared.clock import SystemClock, instant
from shared.errors import UnavailableError
from shared.routing.price import tokens_in_bytes

_ANSWER_TOKENS: Final = 300
_AT_A_TIME: Final = 16
_AUTO: Final = "auto"
_HEAD: Final = ("model", "prompts", "tokens", "credits", "at most")


class Model(msgspec.Struct, frozen=True):
    """A model's rates (credits per 1,000 tokens), bounds and duration, as the API lists it."""

    identifier: str
    input_token_rate: float = 0.0
    output_token_rate: float = 0.0
    max_output_tokens: int = 0
    estimated_duration_seconds: float = 0.0
    available: bool = True
    types: tuple[str, ...] = ("chat",)


class _Models(msgspec.Struct, frozen=True):
    models: list[Model]


class _Line(msgspec.Struct, frozen=True):
    """What is read of a prompt."""

    message: str = ""
    messages: msgspec.Raw = msgspec.Raw()
    model: str | None = None
    system_prompt: str | None = None
    max_output_tokens: int | None = None


class _Work(NamedTuple):
    """Prompts of one model: how many, their tokens, and the sum of their own limits of output."""

    model: str
    output_tokens_max: int | None


class Row(NamedTuple):
    """What the prompts of one model cost: with answers of an assumed length, and at most."""

    model: str
    prompts: int
    tokens: int
    credits: float
    credits_max: float
    seconds: float


async def print_estimate(
    target: Target, prompts: Prompts, options: Mapping[str, str | int], *, as_json: bool
) -> int:
    """Print the estimate; return the exit code. Raises PolluxError."""
    async with target.connect("pollux-batch") as http:
        api = BatchApi(http, SystemClock(), Display(is_live=False).note)
        reply = await api.call("GET", "/api/v1/models", params={"type": "chat"})
        history = await api.call("GET", BATCHES, params={"page": 1, "limit": 20})
    models = {each.identifier: each for each in _decode_models(reply.content) if each.available}
    if not models:
        raise UnavailableError("No model is available now, so nothing can be reckoned.")
    counts, tokens, skipped = _read(prompts, options)
    rows = list(_rows(models, counts, tokens))
    rate = measured_rate(decode_page(history.content).batches)
    known = sum(counts.values())
    low, high = _range(rows, "credits"), _range(rows, "credits_max")
    seconds = known / rate if rate else max(_range(rows, "seconds")) / _AT_A_TIME
    if as_json:
        print_json(
            {
                "prompts": known,
                "unreadable": skipped,
                "input_tokens": sum(tokens.values()),
                "credits": {"low": low[0], "high": low[1], "max": high[1]},
                "seconds": seconds,
                "items_per_second": rate,
                "models": [row._asdict() for row in rows],
            }
        )
        return 0
    print_table(_HEAD, [_cells(row) for row in rows], right_aligned=_HEAD[1:])
    unreadable = f", and {skipped:,} lines that are no prompts" if skipped else ""
    print_line(
        f"\n{known:,} prompts{unreadable}: {_span(*low)} credits, at most {amount(high[1])}."
    )
    print_line(f"About {duration(seconds)} from now to the end.")
    for sentence in _reckoning(rate, rows, has_copies="dedupe" in options):
        print_line(sentence)
    return 0


def measured_rate(batches: list[Batch]) -> float | None:
    """Return the items a second of the last batch that had a rate, or None."""
    for batch in batches:
        if batch.items_per_second and not batch.has_ended:
            return batch.items_per_second
        started, finished = instant(batch.started_at or ""), instant(batch.finished_at or "")
        if started and finished and finished > started and batch.counts.completed:
            return batch.counts.completed * 1000 / (finished - started)
    return None


def _decode_models(content: bytes) -> list[Model]:
    try:
        return msgspec.json.decode(content, type=_Models).models
    except msgspec.MsgspecError:
        raise UnavailableError("The API does not answer as Pollux does.") from None


def _read(
    prompts: Prompts, options: Mapping[str, str | int]
) -> tuple[Counter[_Work], Counter[_Work], int]:
    """Return prompts and their tokens by model and limit, and how many lines are no prompts."""
    decode = msgspec.json.Decoder(_Line).decode
    counts: Counter[_Work] = Counter()
    tokens: Counter[_Work] = Counter()
    skipped = 0
    default_model, system = str(options.get("model", _AUTO)), str(options.get("system_prompt", ""))
    default_max = options.get("max_output_tokens")
    for line in prompts.lines():
        try:
            read = decode(line)
        except msgspec.MsgspecError:
            skipped += 1
            continue
        limit = read.max_output_tokens or (int(default_max) if default_max else None)
        work = _Work(read.model or default_model, limit)
        text = (read.system_prompt if read.system_prompt is not None else system) + read.message
        counts[work] += 1
        tokens[work] += tokens_in_bytes(len(text.encode()) + len(bytes(read.messages)))
    return counts, tokens, skipped


def _rows(
    models: Mapping[str, Model], counts: Counter[_Work], tokens: Counter[_Work]
) -> Iterator[Row]:
    """Yield a row for each model; two, of the cheapest and the dearest, where Pollux chooses."""
    names = sorted({work.model for work in counts})
    for name in names:
        works = [work for work in counts if work.model == name]
        for label, model in _candidates(models, name):
            yield _row(label, model, works, counts, tokens)


def _candidates(models: Mapping[str, Model], name: str) -> list[tuple[str, Model]]:
    if name == _AUTO:
        by_rate = sorted(models.values(), key=lambda each: each.output_token_rate)
        cheapest, dearest = by_rate[0], by_rate[-1]
        if cheapest is dearest:
            return [(f"auto: {cheapest.identifier}", cheapest)]
        return [
            (f"auto, cheapest: {cheapest.identifier}", cheapest),
            (f"auto, dearest: {dearest.identifier}", dearest),
        ]
    if name not in models:
        raise UnavailableError(
            f"No model {name} is available; `pollux models` lists the catalogue."
        )
    return [(name, models[name])]


def _row(
    label: str,
    model: Model,
    works: list[_Work],
    counts: Counter[_Work],
    tokens: Counter[_Work],
) -> Row:
    prompts = sum(counts[work] for work in works)
    read = sum(tokens[work] for work in works)
    cost = cost_max = read * model.input_token_rate / 1000
    for work in works:
        longest = min(work.output_tokens_max or model.max_output_tokens, model.max_output_tokens)
        written = counts[work] * model.output_token_rate / 1000
        cost += written * min(_ANSWER_TOKENS, longest)
        cost_max += written * longest
    return Row(label, prompts, read, cost, cost_max, prompts * model.estimated_duration_seconds)


def _range(rows: list[Row], field: str) -> tuple[float, float]:
    """Return the sum over all models, with the lower and the higher of the rows of `auto`."""
    low = high = 0.0
    auto = [getattr(row, field) for row in rows if row.model.startswith(_AUTO)]
    fixed = sum(getattr(row, field) for row in rows if not row.model.startswith(_AUTO))
    low, high = (min(auto), max(auto)) if auto else (0.0, 0.0)
    return fixed + low, fixed + high


def _span(low: float, high: float) -> str:
    return amount(low) if amount(low) == amount(high) else f"{amount(low)} to {amount(high)}"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.model,
        f"{row.prompts:,}",
        f"{row.tokens:,}",
        amount(row.credits),
        amount(row.credits_max),
    )


def _reckoning(rate: float | None, rows: list[Row], *, has_copies: bool) -> Iterator[str]:
    yield "\nHow this is reckoned:"
    yield "- Tokens of a prompt as the API estimates them, on the high side, from its bytes."
    yield f"- Answers of {_ANSWER_TOKENS} tokens; `at most` is every answer at its longest."
    if any(row.model.startswith(_AUTO) for row in rows):
        yield "- Pollux chooses a model for each prompt: from the cheapest to the dearest of all."
    if has_copies:
        yield "- Identical prompts each time; --dedupe charges only the first of them."
    yield "- Thinking, searches and pictures are not in it; --max-credits bounds the true cost."
    if rate:
        yield f"- {rate:.1f} prompts a second, as your last batch had."
    else:
        yield f"- {_AT_A_TIME} prompts at a time, at the models' durations: no earlier batch tells."
