"""The route table of `/admin/v1`, and a handler for each row.

Every row needs the scope `operator`, whichever account the key belongs to.
"""

from typing import Final

from api.admin import translate, wire
from api.endpoints.endpoint import Endpoint, Query, RequestContext
from api.guards.body_kinds import JsonBody
from api.server.responses import Response
from shared.errors import Code, RequestError
from shared.redis.functions import RetryRefused
from shared.stores.dead_letters import DeadLetters
from shared.telemetry import logs
from shared.wire.dead_letter import DeadLetterName

ABOUT: Final = (
    "For operators: what failed for no fault of its caller, over all accounts. Prompts are shown."
)
DOCUMENT: Final = "/admin/v1/openapi.json"


async def list_dead(context: RequestContext) -> Response:
    """GET /dead: newest first, without prompts."""
    dead_filter = translate.queried(dict(context.query))
    page = await _dead_letters(context).list_letters(
        translate.wanted(dead_filter),
        translate.page_cursor(context.query.get("after")),
        dead_filter.limit or wire.ACTED_ON,
    )
    return Response(
        wire.ListReply(
            dead=[translate.letter(letter) for letter in page.letters],
            count=len(page.letters),
            next_after=str(page.next) if page.next else None,
        )
    )


async def show_dead(context: RequestContext) -> Response:
    """GET /dead/{account}/{generation_id}: one of them, with the prompt."""
    name = DeadLetterName.parse(f"{context.path['account']}/{context.path['generation_id']}")
    found = None if name is None else await _dead_letters(context).find(name)
    if found is None:
        raise RequestError("There is no such dead letter.", Code.NOT_FOUND)
    reader = context.caller
    logs.logger().info(
        "prompt read", operator=reader.account.id, key=reader.key.id, dead=str(found.letter.name)
    )
    return Response(
        wire.LetterReply(
            dead=translate.letter(found.letter), asked=translate.original_request(found.asked)
        )
    )


async def retry_dead(context: RequestContext) -> Response:
    """POST /dead/retry: submit each again, as a new generation."""
    letters, retried, refused = _dead_letters(context), [], []
    for name in await _named_or_matching(context):
        outcome = await letters.retry(name)
        if isinstance(outcome, RetryRefused):
            refused.append(translate.refused(name, outcome))
        else:
            retried.append(wire.Retried(id=str(name), generation_id=outcome.generation))
    logs.logger().info("dead letters retried", key=context.caller.key.id, count=len(retried))
    return Response(wire.RetryReply(count=len(retried), retried=retried, refused=refused))


async def discard_dead(context: RequestContext) -> Response:
    """POST /dead/discard: delete them."""
    names = await _named_or_matching(context)
    were_discarded = await _dead_letters(context).discard(names)
    discarded = [
        str(name)
        for name, was_discarded in zip(names, were_discarded, strict=True)
        if was_discarded
    ]
    unknown = [
        str(name)
        for name, was_discarded in zip(names, were_discarded, strict=True)
        if not was_discarded
    ]
    logs.logger().info("dead letters discarded", key=context.caller.key.id, count=len(discarded))
    return Response(wire.DiscardReply(count=len(discarded), discarded=discarded, unknown=unknown))


def _dead_letters(context: RequestContext) -> DeadLetters:
    return DeadLetters(context.state.redis, context.state.accounts, context.state.settings)


async def _named_or_matching(context: RequestContext) -> list[DeadLetterName]:
    """Return the dead letters that a body names, or that match its filter now."""
    body: wire.ActionBody = context.body
    if body.ids is not None and body.filter is None:
        return translate.names(body.ids)
    if body.filter is None or body.ids is not None:
        raise RequestError("Name either `ids` or a `filter`.", Code.INVALID_FIELDS)
    limit = body.filter.limit or wire.ACTED_ON
    pages = _dead_letters(context).pages(translate.wanted(body.filter), limit)
    return [letter.name async for page in pages for letter in page]


_ACTIONS: Final = f"At most {wire.ACTED_ON_MAX} in one call; of a filter, {wire.LIMIT}"

ENDPOINTS: Final = (
    Endpoint(
        operation="list_dead_letters",
        method="GET",
        path="/dead",
        scope="operator",
        handler=list_dead,
        summary="List dead letters",
        replies=wire.ListReply,
        query=(
            Query("category", "string", "A failure's category."),
            Query("code", "string", "A failure's code."),
            Query("provider", "string", "The upstream's name in the catalogue."),
            Query("model", "string", "The model that was asked for, or the one that was chosen."),
            Query("account", "string", "An account's name."),
            Query("since", "string", "Died then or later, `YYYY-MM-DDTHH:MM:SSZ`."),
            Query("until", "string", "Died then or earlier."),
            Query("limit", "integer", wire.LIMIT),
            Query("after", "string", "Go on there: the `next_after` of an earlier page."),
        ),
        description="A page may hold fewer than `limit`, or none; the last has no `next_after`.",
    ),
    Endpoint(
        operation="get_dead_letter",
        method="GET",
        path="/dead/{account}/{generation_id}",
        scope="operator",
        handler=show_dead,
        summary="Get a dead letter with its prompt",
        replies=wire.LetterReply,
        errors=(Code.NOT_FOUND,),
        description="Shows what the caller wrote.",
    ),
    Endpoint(
        operation="retry_dead_letters",
        method="POST",
        path="/dead/retry",
        scope="operator",
        handler=retry_dead,
        limit="cancel",
        summary="Submit dead letters again",
        body=JsonBody(wire.ActionBody),
        replies=wire.RetryReply,
        description="Each is sent again, once: in its session, if it has one. Its credits are set "
        f"aside again. {_ACTIONS}",
    ),
    Endpoint(
        operation="discard_dead_letters",
        method="POST",
        path="/dead/discard",
        scope="operator",
        handler=discard_dead,
        limit="cancel",
        summary="Discard dead letters",
        body=JsonBody(wire.ActionBody),
        replies=wire.DiscardReply,
        description=_ACTIONS,
    ),
)
