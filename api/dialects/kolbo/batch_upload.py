"""POST /batches in the Kolbo dialect: a batch as JSON lines, or as one JSON document.

The options of JSON lines are query parameters, those of a document stand in it. Both are read as
they arrive (`api/batches`); this file owns the options and the reply.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from api.accept import options, pricing
from api.accept.accept import receipt_headers
from api.batches import uploads
from api.batches.body_stream import BodyStream
from api.batches.terms import BatchReceipt, BatchTerms
from api.batches.uploads import UploadHead
from api.dialects.kolbo import links, upload_wire
from api.dialects.kolbo.batch_lines import KolboLines
from api.endpoints import parameters
from api.endpoints.endpoint import Endpoint, Query, RequestContext
from api.guards import body_kinds, validation_errors
from api.guards.body_kinds import JsonBody, JsonLinesBody, StreamedBody
from api.openapi.headers import ACCEPTED
from api.server.responses import Response
from shared.errors import Code, RequestError
from shared.tiers import LimitSettings
from shared.wire.submission import AUTO

# A JSON document waits whole, in a file, until its options are known.
DOCUMENT_BYTES_MAX: Final = 33_554_432
_DOCUMENT: Final = JsonBody(upload_wire.BatchBody)
_LINES: Final = JsonLinesBody(upload_wire.BatchItemBody)
_BODY: Final = StreamedBody(_DOCUMENT, _LINES)
# Parameters that hold JSON; a list of `stop` begins with a bracket, any other is a text.
_JSON_PARAMETERS: Final = frozenset({"metadata", "response_format"})
_CheckModel = Callable[[upload_wire.BatchOptions], None]
_SMALL_BATCH: Final = 100
_HINT_SECONDS: Final = (1, 5)


async def create(context: RequestContext) -> Response:
    """POST /batches: store a batch, which then runs."""
    is_gzip, kind = body_kinds.is_gzip(context.fields), _BODY.kind_of(context.fields)
    key = parameters.idempotency_key(context)
    limits = context.state.settings.limits
    is_document = kind is _DOCUMENT
    bytes_max = min(DOCUMENT_BYTES_MAX, limits.batch_bytes_max)
    if not is_document:
        bytes_max = limits.batch_bytes_max
    length = _content_length(context, bytes_max)
    head = UploadHead(
        context.caller, context.request_id, key, uploads.stored_bytes(length, is_gzip=is_gzip)
    )
    asked = _lines_options(context, is_document=is_document)
    body = BodyStream(
        context.request,
        context.state.clock,
        length=length,
        bytes_max=bytes_max,
        is_gzip=is_gzip,
        hash_prefix=_hash_prefix(context.route, asked),
    )
    check_model = await _offer(context)
    if asked is None:
        receipt = await context.state.uploads.receive_document(
            head, body, lambda rest: _of_document(rest, limits, check_model)
        )
    else:
        check_model(asked)
        lines = KolboLines(asked, limits)
        receipt = await context.state.uploads.receive_lines(head, body, _terms(asked), lines)
    if not receipt.is_replayed:
        context.state.batch_tasks.begin_feed(context.caller.root, context.caller.account.id)
    return _reply(receipt)


def _content_length(context: RequestContext, bytes_max: int) -> int:
    """Return how long the body is; 0 if it is not known. Raises RequestError if it is too long."""
    declared = context.fields.get(b"content-length", "")
    length = int(declared) if declared.isdecimal() else 0
    if length > bytes_max:
        raise RequestError(f"The body is larger than {bytes_max} bytes.", Code.PAYLOAD_TOO_LARGE)
    return length


def _hash_prefix(route: str, asked: upload_wire.BatchOptions | None) -> bytes:
    """Return what an Idempotency-Key stands for beside the body."""
    return b"\n".join((route.encode(), b"" if asked is None else msgspec.json.encode(asked), b""))


def _lines_options(
    context: RequestContext, *, is_document: bool
) -> upload_wire.BatchOptions | None:
    """Return the options of JSON lines; None for a document, which has its own."""
    if is_document:
        if context.query:
            raise RequestError(
                "The options of a JSON document stand in it, not in the query.",
                Code.INVALID_FIELDS,
            )
        return None
    values = {name: _parameter(name, text) for name, text in context.query.items()}
    shape = upload_wire.BatchOptions
    try:
        body_kinds.refuse_unprintable(values)
        return msgspec.convert(values, shape, strict=False)
    except msgspec.ValidationError as error:
        raise validation_errors.refusal(str(error), shape) from None


def _parameter(name: str, text: str) -> Any:  # noqa: ANN401  a JSON value
    if name not in _JSON_PARAMETERS and not (name == "stop" and text.startswith("[")):
        return text
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        raise RequestError(
            f"The parameter `{name}` is not valid JSON.", Code.INVALID_FIELDS
        ) from None


async def _offer(context: RequestContext) -> _CheckModel:
    """Return what refuses a batch for a model that there is not: its lines would all be wrong.

    It raises RequestError (MODEL_NOT_FOUND).
    """
    fleet = await context.state.live_fleet.current()
    catalogue = context.state.submissions.catalogue_holder.catalogue

    def check(asked: upload_wire.BatchOptions) -> None:
        if asked.model and asked.model != AUTO:
            pricing.find_model(catalogue, asked.model, fleet)

    return check


def _of_document(
    rest: bytes, limits: LimitSettings, check_model: _CheckModel
) -> tuple[BatchTerms, KolboLines]:
    """Return the options of a document without its items."""
    asked: upload_wire.BatchBody = _DOCUMENT.decode(rest)
    check_model(asked)
    return _terms(asked), KolboLines(asked, limits)


def _terms(asked: upload_wire.BatchOptions) -> BatchTerms:
    """Return the options of a batch. Raises RequestError (FEATURE_UNAVAILABLE, INVALID_FIELDS)."""
    return BatchTerms(
        metadata=msgspec.json.encode(asked.metadata).decode() if asked.metadata else None,
        max_credits=options.budget(asked.max_credits),
        is_deduplicated=asked.dedupe is True,
        is_rejecting=asked.on_invalid == "reject",
        deadline_seconds=asked.deadline_seconds,
        webhook=options.webhook(asked.webhook_url),
    )


def _reply(receipt: BatchReceipt) -> Response:
    small, large = _HINT_SECONDS
    headers = receipt_headers(receipt.rate, is_replayed=receipt.is_replayed)
    return Response(
        upload_wire.CreateBatchReply(
            batch_id=receipt.batch,
            state=receipt.state,
            total=receipt.total,
            invalid=receipt.invalid,
            errors=list(receipt.errors),
            poll_url=links.batch_url(receipt.batch),
            results_url=links.batch_url(receipt.batch, "results"),
            poll_interval_hint=small if receipt.total <= _SMALL_BATCH else large,
        ),
        headers=headers,
    )


_QUERY: Final = (
    Query("model", "string", "Of JSON lines: as the field of this name; so are all others."),
    Query("system_prompt", "string", "Precedes the messages of lines that have none."),
    Query("enhance_prompt", "boolean", "Permission to reword messages."),
    Query("web_search", "boolean", "Search the web for the answers."),
    Query("deep_think", "boolean", "Let the model think before it answers."),
    Query("max_output_tokens", "integer", "The longest answer of each line."),
    Query("temperature", "number", "How random the answers are, 0 to 2."),
    Query("top_p", "number", "The share of likely tokens to draw from."),
    Query("stop", "string", "A text that ends an answer, or up to four as a JSON array."),
    Query("response_format", "string", "The form of the answers, as JSON."),
    Query("metadata", "string", "Texts of the caller's own, as a JSON object."),
    Query("max_credits", "number", "The most that all answers may cost."),
    Query("dedupe", "boolean", "Answer identical items once, and charge once."),
    Query("on_invalid", "string", "What an invalid line does.", ("fail", "reject")),
    Query("deadline_seconds", "integer", "Seconds until unfinished items are `expired`."),
    Query("webhook_url", "string", "Where to report the end."),
)

CREATE: Final = Endpoint(
    operation="create_batch",
    method="POST",
    path="/batches",
    scope="chat",
    handler=create,
    summary="Run a batch",
    description="Items run when nothing interactive does, and each is checked as it arrives: an "
    "invalid one has failed, and the others run. As JSON lines (also `application/x-ndjson`) of up "
    "to 1 GB, with the options in the query, or as a JSON document of up to 32 MiB. "
    "`Content-Encoding: gzip` is taken; then the bounds are those of the unpacked body. A body may "
    "take as long as it brings at least 1 KiB a second; where others wait to send theirs, a slow "
    "one may be ended with 503, to be sent again. Blank lines are skipped; with them there may be "
    "twice as many lines as items. Nothing runs before it has ended, and "
    "nothing is left of one that does not.",
    streamed_body=_BODY,
    replies=upload_wire.CreateBatchReply,
    query=_QUERY,
    headers=("Idempotency-Key",),
    response_headers=ACCEPTED,
    errors=(
        Code.MISSING_FIELDS,
        Code.MODEL_NOT_FOUND,
        Code.FEATURE_UNAVAILABLE,
        Code.QUOTA_EXCEEDED,
        Code.UPLOAD_UNDER_WAY,
        Code.IDEMPOTENCY_MISMATCH,
        Code.QUEUE_FULL,
    ),
)
