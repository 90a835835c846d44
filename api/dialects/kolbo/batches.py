"""Batches in the Kolbo dialect: their rows of the route table, and a handler for each."""

import re
from typing import Final, cast

from api.accept import options
from api.dialects.kolbo import batch_translate, batch_wire, wire
from api.endpoints import parameters
from api.endpoints.endpoint import Endpoint, Handler, Query, RequestContext
from api.guards.body_kinds import OptionalJsonBody
from api.polling import batch_pace
from api.resources import batch_results, batches
from api.resources.batch_results import ResultsWanted
from api.server.responses import ChunkedResponse, Response
from shared.errors import Code, RequestError
from shared.wire.batch import Batch, ItemResult, ItemState

_PAGE: Final = 20
_PAGE_MAX: Final = 100
_ORDERS: Final = ("input", "finished")
_STATES: Final = ("completed", "failed", "cancelled", "expired")
_GZIP: Final = re.compile(r"\s*(?:gzip|x-gzip|\*)\s*(?:;\s*q=(?!0(?:\.0*)?\s*$).*)?", re.IGNORECASE)


async def list_(context: RequestContext) -> Response:
    """GET /batches: the account's, the newest first; or the one made with a key."""
    key = context.query.get("key")
    if key is not None:
        found = await batches.find_by_key(context, key)
        listed = [] if found is None else [found]
        return _listed(context, listed, wire.Pagination(1, _PAGE, len(listed), len(listed)))
    page = parameters.whole_number(context, "page", 1, at_least=1)
    limit = min(parameters.whole_number(context, "limit", _PAGE, at_least=1), _PAGE_MAX)
    listed, total = await batches.page(context, offset=(page - 1) * limit, limit=limit)
    return _listed(context, listed, wire.Pagination(page, limit, total, -(-total // limit)))


def _listed(context: RequestContext, listed: list[Batch], where: wire.Pagination) -> Response:
    now = context.state.clock.now_ms()
    shown = [batch_translate.batch(each, batch_pace.of(each, now)) for each in listed]
    return Response(batch_wire.BatchesReply(batches=shown, pagination=where))


async def show(context: RequestContext) -> Response:
    """GET /batches/{id}: counts, pace and credits."""
    return shown(context, await batches.load(context))


def shown(context: RequestContext, batch: Batch) -> Response:
    """Return a batch as it is shown alone."""
    pace = batch_pace.of(batch, context.state.clock.now_ms())
    return Response(batch_translate.batch_reply(batch, pace))


async def pause(context: RequestContext) -> Response:
    """POST /batches/{id}/pause: begin no more items."""
    return shown(context, await batches.pause(context))


async def resume(context: RequestContext) -> Response:
    """POST /batches/{id}/resume: go on, possibly with a new limit."""
    body: batch_wire.ResumeBody = context.body
    return shown(context, await batches.resume(context, options.budget(body.max_credits)))


async def retry(context: RequestContext) -> Response:
    """POST /batches/{id}/retry: run the failed items again."""
    return shown(context, await batches.retry(context))


async def cancel(context: RequestContext) -> Response:
    """POST /batches/{id}/cancel: end what has not ended."""
    return shown(context, await batches.cancel(context))


async def delete(context: RequestContext) -> Response:
    """DELETE /batches/{id}: cancel it, and delete it with its results."""
    return Response(batch_wire.BatchDeletedReply(batch_id=await batches.delete(context)))


async def results(context: RequestContext) -> ChunkedResponse:
    """GET /batches/{id}/results: what has ended, as JSON lines."""
    sign = context.state.url_signer.sign_media

    def make_line(item: ItemResult, seq: int | None, copy_of: str | None) -> bytes:
        return batch_translate.line(item, seq, copy_of, sign)

    ref = parameters.batch_ref(context)
    return await batch_results.respond(context, ref, _results_wanted(context), make_line)


def _results_wanted(context: RequestContext) -> ResultsWanted:
    order = _choice(context, "order", _ORDERS) or "input"
    is_partial = _choice(context, "partial", ("true", "false")) == "true"
    mine, others = ("after_line", "after_seq") if order == "input" else ("after_seq", "after_line")
    if others in context.query or (is_partial and order == "finished"):
        wrong = others if others in context.query else "partial"
        raise RequestError(
            f"The parameter `{wrong}` does not go with `order={order}`.", Code.INVALID_FIELDS
        )
    return ResultsWanted(
        order="finished" if order == "finished" else "input",
        after=parameters.whole_number(context, mine, 0, at_least=0),
        is_partial=is_partial,
        state=cast("ItemState | None", _choice(context, "state", _STATES)),
        is_gzip=_accepts_gzip(context.fields.get(b"accept-encoding", "")),
    )


def _choice(context: RequestContext, name: str, choices: tuple[str, ...]) -> str | None:
    value = context.query.get(name)
    if value is not None and value not in choices:
        named = ", ".join(f"`{each}`" for each in choices)
        raise RequestError(f"The parameter `{name}` must be one of {named}.", Code.INVALID_FIELDS)
    return value


def _accepts_gzip(accepted: str) -> bool:
    return any(_GZIP.fullmatch(each) for each in accepted.split(","))


def _action(
    name: str,
    handler: Handler,
    summary: str,
    description: str,
    *,
    body: OptionalJsonBody | None = None,
    more: tuple[Code, ...] = (),
) -> Endpoint:
    """Return the row of a change of a batch, which is answered with the batch as it is then."""
    return Endpoint(
        operation=f"{name}_batch",
        method="POST",
        path=f"/batches/{{batch_id}}/{name}",
        scope="chat",
        handler=handler,
        limit="cancel",
        summary=summary,
        description=description,
        body=body,
        replies=batch_wire.BatchReply,
        errors=(Code.BATCH_NOT_FOUND, Code.ALREADY_FINISHED, *more),
    )


ENDPOINTS: Final = (
    Endpoint(
        operation="list_batches",
        method="GET",
        path="/batches",
        scope="read",
        handler=list_,
        summary="List batches",
        description="A script that lost its connection finds what became of its upload by the "
        "`key` that it sent.",
        replies=batch_wire.BatchesReply,
        query=(
            Query("page", "integer", "From 1."),
            Query("limit", "integer", "More than 100 is taken as 100; 20 by default."),
            Query("key", "string", "Only the batch that was made with this Idempotency-Key."),
        ),
    ),
    Endpoint(
        operation="get_batch",
        method="GET",
        path="/batches/{batch_id}",
        scope="read",
        handler=show,
        summary="Get a batch",
        description="Poll it every `poll_interval_hint` seconds while it is `validating`, "
        "`running` or `paused`; results can be read meanwhile.",
        replies=batch_wire.BatchReply,
        errors=(Code.BATCH_NOT_FOUND,),
    ),
    Endpoint(
        operation="get_batch_results",
        method="GET",
        path="/batches/{batch_id}/results",
        scope="read",
        handler=results,
        summary="Read a batch's results",
        description="JSON lines, one for each item that has ended, at any time. In input order "
        "they end before the first item that has not ended; ask again from there with "
        "`after_line`, the `line` of the last one. With `order=finished` they come in the order in "
        "which they ended, and `after_seq` continues; an item that was retried comes again, and "
        "its last line counts. An answer that is cut off has no proper end: continue after "
        "the last whole line. Compressed if the request's Accept-Encoding has `gzip`.",
        replies=None,
        lines=batch_wire.ResultLine,
        query=(
            Query("order", "string", "`input` by default.", _ORDERS),
            Query("after_line", "integer", "In input order: only what is after this line."),
            Query("after_seq", "integer", "In order of finishing: only what ended after this one."),
            Query(
                "partial",
                "string",
                "`true`: in input order, leave out what has not ended. Cannot be continued.",
                ("true", "false"),
            ),
            Query("state", "string", "Only items that ended so.", _STATES),
        ),
        response_headers=("Batch-State",),
        errors=(Code.BATCH_NOT_FOUND,),
    ),
    _action(
        "pause",
        pause,
        "Pause a batch",
        "What is in the queue or runs goes on to its end. What costs too much pauses by itself.",
    ),
    _action(
        "resume",
        resume,
        "Resume a batch",
        "One that paused at its `max_credits` needs a higher one.",
        body=OptionalJsonBody(batch_wire.ResumeBody),
    ),
    _action(
        "retry",
        retry,
        "Run the failed items of a batch again",
        "Only of one that has `completed` or `failed`, and not those of its lines that are wrong. "
        "The new results take the place of the failures.",
        more=(Code.QUOTA_EXCEEDED,),
    ),
    _action(
        "cancel",
        cancel,
        "Cancel a batch",
        "Answered at once; `cancelling` until its last item has ended. What was answered stays.",
    ),
    Endpoint(
        operation="delete_batch",
        method="DELETE",
        path="/batches/{batch_id}",
        scope="chat",
        handler=delete,
        summary="Delete a batch",
        description="With its results; one that runs is cancelled first.",
        replies=batch_wire.BatchDeletedReply,
        errors=(Code.BATCH_NOT_FOUND,),
    ),
)
