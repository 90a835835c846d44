"""Between dead letters as they are stored and as `/admin/v1` shows them. Pure."""

from typing import Any, Final

import msgspec

from api.admin import wire
from api.follow import stream_events
from shared.clock import instant, iso
from shared.errors import Code, RequestError
from shared.redis.functions import RetryRefused
from shared.stores.dead_letters import RETRY_REFUSALS, DeadLetterFilter, PageCursor
from shared.wire.account import MICROCREDITS_PER_CREDIT
from shared.wire.dead_letter import DeadLetter, DeadLetterName, OriginalRequest
from shared.wire.submission import PLAIN


def wanted(dead_filter: wire.Filter) -> DeadLetterFilter:
    """Return the filter of a request. Raises RequestError for an invalid time."""
    return DeadLetterFilter(
        category=dead_filter.category,
        code=dead_filter.code,
        provider=dead_filter.provider,
        model=dead_filter.model,
        account=dead_filter.account,
        since_ms=_instant("since", dead_filter.since),
        until_ms=_instant("until", dead_filter.until),
    )


def _instant(field: str, text: str | None) -> int | None:
    found = None if text is None else instant(text)
    if text is not None and found is None:
        raise RequestError(
            f"`{field}` must be a time, as in 2026-01-31T12:00:00Z.", Code.INVALID_FIELDS
        )
    return found


def queried(parameters: dict[str, Any]) -> wire.Filter:
    """Return the filter of a query. Raises RequestError naming the wrong parameter."""
    fields = {name: parameters[name] for name in _FILTERS if parameters.get(name)}
    try:
        return msgspec.convert(fields, wire.Filter, strict=False)
    except msgspec.ValidationError as error:
        raise RequestError(f"A parameter is wrong: {error}.", Code.INVALID_FIELDS) from None


_FILTERS: Final = tuple(wire.Filter.__struct_fields__)


def names(ids: list[str]) -> list[DeadLetterName]:
    """Return the dead letters that ids name, each once. Raises RequestError for an invalid id."""
    found: dict[DeadLetterName, None] = {}
    for id_ in ids:
        name = DeadLetterName.parse(id_)
        if name is None:
            raise RequestError("The field `ids` holds ACCOUNT/GENERATION.", Code.INVALID_FIELDS)
        found[name] = None
    return list(found)


def page_cursor(text: str | None) -> PageCursor | None:
    """Return where a page begins. Raises RequestError if it is no `next_after` of ours."""
    if text is None:
        return None
    found = PageCursor.parse(text)
    if found is None:
        raise RequestError(
            "The parameter `after` must be the `next_after` of an earlier page.",
            Code.INVALID_FIELDS,
        )
    return found


def letter(found: DeadLetter) -> wire.DeadLetter:
    """Return a dead letter without its prompt."""
    return wire.DeadLetter(
        id=str(found.name),
        account=found.name.account,
        generation_id=found.name.id,
        session_id=found.session,
        turn=found.turn,
        lane=found.lane,
        model=found.model,
        chosen=found.chosen,
        failure=stream_events.failure(found.failure),
        attempt=found.attempt,
        attempts=[
            wire.Attempt(
                attempt=each.attempt,
                started_at=iso(each.started),
                ended_at=iso(each.ended),
                worker=each.worker,
                why=each.why,
            )
            for each in found.attempts
        ],
        accepted_at=iso(found.accepted),
        died_at=iso(found.died),
        held_credits=found.hold / MICROCREDITS_PER_CREDIT,
        key_id=found.key,
        retried_as=found.retried_as,
    )


def original_request(found: OriginalRequest) -> wire.Asked:
    """Return the request of a dead letter's caller."""
    message, submission = found
    features = submission.features if submission else PLAIN
    return wire.Asked(
        message=message.content if message else None,
        metadata=(message.metadata if message else None) or {},
        project_id=message.project if message else None,
        companion=submission.companion if submission else None,
        enhance_prompt=submission.enhance_prompt if submission else None,
        max_output_tokens=submission.max_output_tokens if submission else None,
        deep_think=features.deep_think if submission else None,
        web_search=features.web_search if submission else None,
        media_urls=list(features.media_urls),
    )


def refused(name: DeadLetterName, why: RetryRefused) -> wire.Refused:
    """Return why a dead letter was not retried."""
    code, sentence = RETRY_REFUSALS[why.reason]
    return wire.Refused(id=str(name), code=code.value, error=sentence)
