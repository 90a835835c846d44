"""`pollux dead`: lists, shows, retries and discards dead letters.

A dead letter is a generation that failed through no fault of its caller. `show` prints the caller's
message. `retry` and `discard` need the ids, or `--all`, which the filters narrow: a call without
arguments changes nothing.
"""

import json as json_text
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from cyclopts import App, Parameter

from deploy import stores
from deploy.options import FOLDER, Count, Json, RunningFolder, examples
from deploy.output import print_json, print_line, print_table
from shared.clock import instant, iso
from shared.errors import Category, Code, RequestError
from shared.redis.functions import RetryRefused
from shared.stores.dead_letters import RETRY_REFUSALS, DeadLetterFilter, DeadLetters
from shared.wire.account import MICROCREDITS_PER_CREDIT
from shared.wire.dead_letter import DeadLetter, DeadLetterName

app: Final = App(
    name="dead",
    help="List, show, retry and discard dead letters: generations that failed through no fault of "
    "their caller.",
    help_format="markdown",
    help_epilogue=examples(
        "pollux dead list --since 2026-11-01",
        "pollux dead retry --all --code CRASHED",
    ),
)

All = Annotated[
    bool, Parameter(name="--all", negative="", help="All dead letters that the filters select.")
]

_COLUMNS: Final = ("id", "died_at", "category", "code", "provider", "model", "attempt")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Filter:
    """Selects dead letters; every option that is set must match.

    Attributes:
        category: Category of the failure, such as provider_error.
        code: Code of the failure, such as CRASHED.
        provider: Name of a provider in the catalogue.
        model: The model that was requested, or the one that was chosen.
        account: An account's name.
        since: Failed then or later: YYYY-MM-DD or YYYY-MM-DDTHH:MM:SSZ.
        until: Failed then or earlier.

    """

    category: Category | None = None
    code: str | None = None
    provider: str | None = None
    model: str | None = None
    account: str | None = None
    since: str | None = None
    until: str | None = None

    def parsed(self) -> DeadLetterFilter:
        """Return the store's filter. Raises RequestError if a time cannot be parsed."""
        return DeadLetterFilter(
            category=self.category,
            code=self.code,
            provider=self.provider,
            model=self.model,
            account=self.account,
            since_ms=_instant("since", self.since),
            until_ms=_instant("until", self.until),
        )


_NO_FILTER: Final = Filter()


@app.command(name="list")
async def list_(
    *,
    filter: Filter = _NO_FILTER,  # noqa: A002  the command's word
    limit: Count = 100,
    json: Json = False,
    folder: RunningFolder = FOLDER,
) -> None:
    """List dead letters, newest first, without the callers' messages.

    Args:
        limit: How many to list at most.

    """
    selected = filter.parsed()
    async with stores.open_dead_letters(folder) as letters:
        rows = [_row(letter) async for page in letters.pages(selected, limit) for letter in page]
    if json:
        print_json(rows)
        return
    print_table(_COLUMNS, [tuple(str(row[name] or "-") for name in _COLUMNS) for row in rows])


@app.command
async def show(id: str, /, *, json: Json = False, folder: RunningFolder = FOLDER) -> None:  # noqa: A002  the list's word
    """Show a dead letter with its attempts and the caller's message.

    Args:
        id: ACCOUNT/GENERATION, as `list` prints it.

    """
    [name] = _names((id,))
    async with stores.open_dead_letters(folder) as letters:
        found = await letters.find(name)
    if found is None:
        raise RequestError(f"There is no dead letter {name}.", Code.NOT_FOUND)
    result = _row(found.letter) | {
        "message": found.asked.message and msgspec.to_builtins(found.asked.message),
        "submission": found.asked.submission and msgspec.to_builtins(found.asked.submission),
    }
    if json:
        print_json(result)
        return
    attempts = result.pop("attempts")
    for word, value in result.items():
        shown = value if isinstance(value, str) else json_text.dumps(value, ensure_ascii=False)
        print_line(f"{word + ':':<13}{'-' if value is None else shown}")
    for attempt in attempts:
        print_line("attempt      " + "  ".join(map(str, attempt.values())))


@app.command
async def retry(
    *ids: str,
    filter: Filter = _NO_FILTER,  # noqa: A002  the command's word
    all: All = False,  # noqa: A002  the option's name
    limit: Count | None = None,
    json: Json = False,
    folder: RunningFolder = FOLDER,
) -> int:
    """Retry dead letters: each is sent again, in its session if any; its credits are held again.

    Args:
        ids: ACCOUNT/GENERATION, as `list` prints it.
        limit: With --all, how many to retry at most.

    """
    retried, refused = {}, {}
    async with stores.open_dead_letters(folder) as letters:
        async for names in _selected_pages(letters, ids, filter, is_all=all, limit=limit):
            for name in names:
                result = await letters.retry(name)
                if isinstance(result, RetryRefused):
                    refused[str(name)] = RETRY_REFUSALS[result.reason][1]
                else:
                    retried[str(name)] = result.generation
    if json:
        print_json({"retried": retried, "refused": refused})
    else:
        for id_, generation in retried.items():
            print_line(f"{id_} is retried as {generation}")
        print_line(f"{len(retried)} retried, {len(refused)} refused.")
    _print_reasons(refused)
    return 1 if refused else 0


@app.command
async def discard(
    *ids: str,
    filter: Filter = _NO_FILTER,  # noqa: A002  the command's word
    all: All = False,  # noqa: A002  the option's name
    limit: Count | None = None,
    json: Json = False,
    folder: RunningFolder = FOLDER,
) -> int:
    """Delete dead letters for ever.

    Args:
        ids: ACCOUNT/GENERATION, as `list` prints it.
        limit: With --all, how many to delete at most.

    """
    outcomes: dict[str, bool] = {}
    async with stores.open_dead_letters(folder) as letters:
        async for names in _selected_pages(letters, ids, filter, is_all=all, limit=limit):
            result = await letters.discard(names)
            outcomes |= dict(zip(map(str, names), result, strict=True))
    discarded = [id_ for id_, was_discarded in outcomes.items() if was_discarded]
    unknown = {
        id_: RETRY_REFUSALS["unknown"][1]
        for id_, was_discarded in outcomes.items()
        if not was_discarded
    }
    if json:
        print_json({"discarded": discarded, "unknown": list(unknown)})
    else:
        for id_ in discarded:
            print_line(f"{id_} is discarded")
        print_line(f"{len(discarded)} discarded, {len(unknown)} unknown.")
    _print_reasons(unknown)
    return 1 if unknown else 0


async def _selected_pages(
    letters: DeadLetters, ids: tuple[str, ...], filter_: Filter, *, is_all: bool, limit: int | None
) -> AsyncIterator[list[DeadLetterName]]:
    """Yield the selected names page by page. Raises RequestError unless ids or --all select."""
    if bool(ids) == is_all or (ids and (filter_ != _NO_FILTER or limit is not None)):
        raise RequestError(
            "Give the ids of dead letters, or --all, which the filters narrow.",
            Code.INVALID_FIELDS,
        )
    if ids:
        yield _names(ids)
        return
    async for page in letters.pages(filter_.parsed(), limit):
        yield [letter.name for letter in page]


def _names(ids: tuple[str, ...]) -> list[DeadLetterName]:
    names: dict[DeadLetterName, None] = {}
    for id_ in ids:
        name = DeadLetterName.parse(id_)
        if name is None:
            raise RequestError(
                f"A dead letter's id is ACCOUNT/GENERATION, not {id_!r}.", Code.INVALID_FIELDS
            )
        names[name] = None
    return list(names)


def _instant(word: str, text: str | None) -> int | None:
    found = None if text is None else instant(text)
    if text is not None and found is None:
        raise RequestError(
            f"--{word} is YYYY-MM-DD or YYYY-MM-DDTHH:MM:SSZ, not {text!r}.", Code.INVALID_FIELDS
        )
    return found


def _row(letter: DeadLetter) -> dict[str, Any]:
    failure = letter.failure
    return {
        "id": str(letter.name),
        "died_at": iso(letter.died),
        "accepted_at": iso(letter.accepted),
        "category": failure.category,
        "code": failure.code,
        "failure": failure.message,
        "provider": failure.provider,
        "model": letter.model,
        "chosen": letter.chosen,
        "session": letter.session,
        "turn": letter.turn,
        "lane": letter.lane,
        "hold": letter.hold / MICROCREDITS_PER_CREDIT,
        "key_id": letter.key,
        "retried_as": letter.retried_as,
        "attempt": letter.attempt,
        "attempts": [
            {
                "attempt": each.attempt,
                "started_at": iso(each.started),
                "ended_at": iso(each.ended),
                "worker": each.worker,
                "why": each.why,
            }
            for each in letter.attempts
        ],
    }


def _print_reasons(reasons: dict[str, str]) -> None:
    for id_, reason in reasons.items():
        sys.stderr.write(f"pollux: {id_}: {reason}\n")
