"""The body fields that every dialect shares, and the Intent made from them.

Owns their names, bounds and refusals. Chooses no model: how one is named is a dialect's own. Pure:
no Redis, no clock.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from api.accept.accept import Intent
from shared import egress, ids, json_schema
from shared.errors import Code, EgressError, RequestError
from shared.tiers import LimitSettings
from shared.wire.account import MICROCREDITS_PER_CREDIT
from shared.wire.conversation import DEFAULT_SAMPLING, FREE_TEXT, AnswerForm, Sampling
from shared.wire.submission import Features

Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16, description="Texts of the caller's own, returned as they are."),
]
StopText = Annotated[str, Meta(min_length=1, max_length=64)]
SessionName = Annotated[str, Meta(min_length=1, max_length=200, description="A name for people.")]


class TextFormat(msgspec.Struct, frozen=True, tag="text", forbid_unknown_fields=True):
    """Free text, as without the field."""


class JsonObjectFormat(msgspec.Struct, frozen=True, tag="json_object", forbid_unknown_fields=True):
    """One JSON object; the message should ask for it, too."""


class JsonSchema(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A schema with its name."""

    name: Annotated[
        str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$", description="A name that the model sees.")
    ]
    schema: Annotated[
        dict[str, Any],
        Meta(
            description="A JSON schema of draft 2020-12 with the usual keywords: types, values, "
            "`properties`, `items`, `anyOf`, `oneOf`, `allOf`, `not`, bounds of numbers, texts and "
            "arrays, `pattern`, and `$ref` to `$defs`, but not to itself. At most 64 KiB, 16 "
            "patterns, and 2,000 nodes with each reference counted as what it refers to."
        ),
    ]
    strict: Annotated[
        bool | None,
        Meta(description="Have the provider enforce it, where it can (default: false)."),
    ] = None


class JsonSchemaFormat(msgspec.Struct, frozen=True, tag="json_schema", forbid_unknown_fields=True):
    """JSON that matches a schema."""

    json_schema: Annotated[JsonSchema, Meta(description="The schema, and its name.")]


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message to answer. A field whose feature is not available is refused when it is used."""

    message: Annotated[str, Meta(description="The message to send to the model.")]
    session_id: Annotated[str | None, Meta(description="Continue this conversation.")] = None
    system_prompt: Annotated[
        str | None, Meta(description="For a new conversation; ignored when `session_id` is given.")
    ] = None
    enhance_prompt: Annotated[
        bool | None, Meta(description="Permission to reword the message; it may stay as it is.")
    ] = None
    web_search: Annotated[
        bool | None, Meta(description="Search the web for the answer; `citations` lists the pages.")
    ] = None
    deep_think: Annotated[
        bool | None, Meta(description="Let the model think before it answers (default: false).")
    ] = None
    media_urls: Annotated[
        Annotated[list[str], Meta(max_length=10)] | None,
        Meta(description="Pictures for the model to see: PNG, JPEG, GIF or WebP."),
    ] = None
    project_id: Annotated[
        Annotated[str, Meta(max_length=128)] | None,
        Meta(description="A label of the caller's own, returned in the status."),
    ] = None
    priority: Annotated[
        Literal["interactive", "batch"] | None,
        Meta(description="`batch` yields to interactive messages (default: `interactive`)."),
    ] = None
    max_credits: Annotated[
        Annotated[float, Meta(gt=0, le=1_000_000)] | None,
        Meta(description="The most that the answer may cost."),
    ] = None
    deadline_seconds: Annotated[
        Annotated[int, Meta(ge=1, le=604_800)] | None,
        Meta(description="Seconds after which an unfinished answer fails as `expired`."),
    ] = None
    metadata: Metadata | None = None
    max_output_tokens: Annotated[
        Annotated[int, Meta(ge=1, le=10_000_000)] | None,
        Meta(description="The longest answer, reasoning included; less holds fewer credits."),
    ] = None
    temperature: Annotated[
        Annotated[float, Meta(ge=0, le=2)] | None,
        Meta(description="How random the answer is; models that do not take it are not chosen."),
    ] = None
    top_p: Annotated[
        Annotated[float, Meta(gt=0, le=1)] | None,
        Meta(description="The share of likely tokens to draw from; not every model takes it."),
    ] = None
    stop: Annotated[
        StopText | Annotated[list[StopText], Meta(max_length=4)] | None,
        Meta(description="Texts that end the answer, which does not include them."),
    ] = None
    response_format: Annotated[
        TextFormat | JsonObjectFormat | JsonSchemaFormat | None,
        Meta(
            description="The form of the answer. It is checked at the end: an answer of another "
            "form is asked for once more, and then fails with ANSWER_FORM."
        ),
    ] = None
    cost_quality: Annotated[
        Annotated[int, Meta(ge=0, le=10)] | None,
        Meta(description="From 0, the cheapest model, to 10, the best; not in this version."),
    ] = None
    on_conflict: Annotated[
        Literal["enqueue", "reject", "interrupt"] | None,
        Meta(
            description="While the conversation answers another message: wait for it (`enqueue`, "
            "the default), be refused with SESSION_BUSY, or cancel it (`interrupt`)."
        ),
    ] = None
    webhook_url: Annotated[
        str | None, Meta(description="Where to report the end; not in this version.")
    ] = None


def intent(
    body: Options, limits: LimitSettings, *, model: str, companion: str | None = None
) -> Intent:
    """Return the Intent of a body. Raises RequestError naming the wrong field."""
    if not body.message.strip():
        raise RequestError("The field `message` is required.", Code.MISSING_FIELDS)
    for name in ("message", "system_prompt"):
        if len(getattr(body, name) or "") > limits.message_characters_max:
            raise RequestError(
                f"The field `{name}` is longer than {limits.message_characters_max} characters.",
                Code.INVALID_FIELDS,
            )
    _refuse_unavailable(body)
    _check_media(body.media_urls or ())
    form = _form(body.response_format)
    if body.session_id and not ids.is_id(body.session_id):
        raise RequestError("There is no such session.", Code.SESSION_NOT_FOUND)
    return Intent(
        message=body.message,
        model=model,
        session=body.session_id or None,
        system_prompt=body.system_prompt or None,
        enhance_prompt=body.enhance_prompt is not False,
        lane=body.priority or "interactive",
        on_conflict=body.on_conflict or "enqueue",
        budget=None
        if body.max_credits is None
        else max(1, round(body.max_credits * MICROCREDITS_PER_CREDIT)),
        deadline_seconds=body.deadline_seconds,
        metadata=body.metadata or None,
        project=body.project_id,
        companion=companion,
        features=Features(
            deep_think=body.deep_think is True,
            web_search=body.web_search is True,
            media_urls=tuple(body.media_urls or ()),
        ),
        max_output_tokens=body.max_output_tokens,
        sampling=_sampling(body),
        form=form,
    )


def _sampling(body: Options) -> Sampling:
    if (body.temperature, body.top_p, body.stop) == (None, None, None):
        return DEFAULT_SAMPLING
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return Sampling(temperature=body.temperature, top_p=body.top_p, stop=stop)


def _form(asked: TextFormat | JsonObjectFormat | JsonSchemaFormat | None) -> AnswerForm:
    """Return the form of the answer. Raises RequestError for a schema that is not taken."""
    if isinstance(asked, JsonObjectFormat):
        return AnswerForm(kind="json_object")
    if not isinstance(asked, JsonSchemaFormat):
        return FREE_TEXT
    named = asked.json_schema
    if named.name.endswith("\n"):
        raise RequestError(
            "The field `response_format.json_schema.name` ends with a line end.",
            Code.INVALID_FIELDS,
        )
    fault = json_schema.find_fault(named.schema)
    if fault is not None:
        raise RequestError(
            f"The field `response_format.json_schema.schema` {fault}.", Code.INVALID_FIELDS
        )
    return AnswerForm(
        kind="json_schema", name=named.name, schema=named.schema, is_strict=named.strict is True
    )


def _check_media(urls: Sequence[str]) -> None:
    """Refuse, by its index, a URL that could never be fetched; no name is resolved."""
    for index, url in enumerate(urls):
        try:
            egress.parse(url)
        except EgressError as error:
            raise RequestError(
                f"The field `media_urls[{index}]` cannot be taken. {error.message}",
                Code.INVALID_FIELDS,
            ) from None


def _refuse_unavailable(body: Options) -> None:
    """Refuse, by name, a field whose feature is not available; `false` asks for nothing."""
    unsupported = {
        "webhook_url": body.webhook_url,
        "cost_quality": body.cost_quality is not None,
    }
    for name, is_requested in unsupported.items():
        if is_requested:
            raise RequestError(
                f"The field `{name}` asks for a feature that this deployment does not have.",
                Code.FEATURE_UNAVAILABLE,
            )
