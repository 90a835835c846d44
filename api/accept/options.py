"""The body fields that every dialect shares, and the Intent made from them.

Owns their names, bounds and refusals. Chooses no model: how one is named is a dialect's own. Pure:
no Redis, no clock.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from api.accept.intent import Intent
from shared import egress, ids, json_schema
from shared.errors import Code, EgressError, RequestError
from shared.tiers import LimitSettings
from shared.wire.account import MICROCREDITS_PER_CREDIT
from shared.wire.conversation import DEFAULT_SAMPLING, FREE_TEXT, AnswerForm, Sampling
from shared.wire.submission import PLAIN, Features

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


# Fields of a message and of its answer, which other bodies have, too.
EnhancePrompt = Annotated[
    bool | None, Meta(description="Permission to reword the message; it may stay as it is.")
]
WebSearch = Annotated[
    bool | None, Meta(description="Search the web for the answer; `citations` lists the pages.")
]
DeepThink = Annotated[
    bool | None, Meta(description="Let the model think before it answers (default: false).")
]
MaxOutputTokens = Annotated[
    Annotated[int, Meta(ge=1, le=10_000_000)] | None,
    Meta(description="The longest answer, reasoning included; less holds fewer credits."),
]
Temperature = Annotated[
    Annotated[float, Meta(ge=0, le=2)] | None,
    Meta(description="How random the answer is; models that do not take it are not chosen."),
]
TopP = Annotated[
    Annotated[float, Meta(gt=0, le=1)] | None,
    Meta(description="The share of likely tokens to draw from; not every model takes it."),
]
StopTexts = Annotated[
    StopText | Annotated[list[StopText], Meta(max_length=4)] | None,
    Meta(description="Texts that end the answer, which does not include them."),
]
ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat | None,
    Meta(
        description="The form of the answer. It is checked at the end: an answer of another "
        "form is asked for once more, and then fails with ANSWER_FORM."
    ),
]
MediaUrls = Annotated[
    Annotated[list[str], Meta(max_length=10)] | None,
    Meta(description="Pictures for the model to see: PNG, JPEG, GIF or WebP."),
]
ProjectId = Annotated[
    Annotated[str, Meta(max_length=128)] | None,
    Meta(description="A label of the caller's own, returned in the status."),
]
MaxCredits = Annotated[
    Annotated[float, Meta(gt=0, le=1_000_000)] | None,
    Meta(description="The most that the answer may cost."),
]
DeadlineSeconds = Annotated[
    Annotated[int, Meta(ge=1, le=604_800)] | None,
    Meta(description="Seconds after which an unfinished answer fails as `expired`."),
]


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message to answer. A field whose feature is not available is refused when it is used."""

    message: Annotated[str, Meta(description="The message to send to the model.")]
    session_id: Annotated[str | None, Meta(description="Continue this conversation.")] = None
    system_prompt: Annotated[
        str | None, Meta(description="For a new conversation; ignored when `session_id` is given.")
    ] = None
    enhance_prompt: EnhancePrompt = None
    web_search: WebSearch = None
    deep_think: DeepThink = None
    media_urls: MediaUrls = None
    project_id: ProjectId = None
    priority: Annotated[
        Literal["interactive", "batch"] | None,
        Meta(description="`batch` yields to interactive messages (default: `interactive`)."),
    ] = None
    max_credits: MaxCredits = None
    deadline_seconds: DeadlineSeconds = None
    metadata: Metadata | None = None
    max_output_tokens: MaxOutputTokens = None
    temperature: Temperature = None
    top_p: TopP = None
    stop: StopTexts = None
    response_format: ResponseFormat = None
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
        str | None,
        Meta(
            description="A URL to which the end is reported by a signed POST, beside the account's "
            "webhook if it has one. POST /v1/ai/webhooks/config/rotate returns the secret."
        ),
    ] = None


def intent(
    body: Options, limits: LimitSettings, *, model: str, companion: str | None = None
) -> Intent:
    """Return the Intent of a body. Raises RequestError naming the wrong field."""
    check_message(body.message, limits)
    check_length("system_prompt", body.system_prompt, limits)
    _refuse_unavailable(body)
    check_media(body.media_urls or ())
    form = answer_form(body.response_format)
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
        budget=budget(body.max_credits),
        deadline_seconds=body.deadline_seconds,
        metadata=body.metadata or None,
        project=body.project_id,
        companion=companion,
        features=features(body.deep_think, body.web_search, body.media_urls),
        max_output_tokens=body.max_output_tokens,
        sampling=sampling(body.temperature, body.top_p, body.stop),
        form=form,
        webhook=webhook(body.webhook_url),
    )


def check_message(message: str, limits: LimitSettings) -> None:
    """Refuse a message that is empty or too long."""
    if not message.strip():
        raise RequestError("The field `message` is required.", Code.MISSING_FIELDS)
    check_length("message", message, limits)


def check_length(name: str, text: str | None, limits: LimitSettings) -> None:
    """Refuse a field whose text is longer than a message may be."""
    if text is not None and len(text) > limits.message_characters_max:
        raise RequestError(
            f"The field `{name}` is longer than {limits.message_characters_max} characters.",
            Code.INVALID_FIELDS,
        )


def budget(max_credits: float | None) -> int | None:
    """Return a limit in microcredits; one below a microcredit is one."""
    return None if max_credits is None else max(1, round(max_credits * MICROCREDITS_PER_CREDIT))


def features(
    deep_think: bool | None,  # noqa: FBT001  as the body has it
    web_search: bool | None,  # noqa: FBT001  as the body has it
    media_urls: Sequence[str] | None,
) -> Features:
    """Return what a message asks for beyond a text answer."""
    if not (deep_think or web_search or media_urls):
        return PLAIN
    return Features(
        deep_think=deep_think is True,
        web_search=web_search is True,
        media_urls=tuple(media_urls or ()),
    )


def sampling(
    temperature: float | None, top_p: float | None, stop: str | Sequence[str] | None
) -> Sampling:
    """Return how tokens are drawn."""
    if (temperature, top_p, stop) == (None, None, None):
        return DEFAULT_SAMPLING
    texts = (stop,) if isinstance(stop, str) else tuple(stop or ())
    return Sampling(temperature=temperature, top_p=top_p, stop=texts)


def answer_form(asked: TextFormat | JsonObjectFormat | JsonSchemaFormat | None) -> AnswerForm:
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


def check_media(urls: Sequence[str]) -> None:
    """Refuse, by its index, a URL that could never be fetched; no name is resolved."""
    for index, url in enumerate(urls):
        try:
            egress.parse(url)
        except EgressError as error:
            raise RequestError(
                f"The field `media_urls[{index}]` cannot be taken. {error.message}",
                Code.INVALID_FIELDS,
            ) from None


def webhook(url: str | None) -> str | None:
    """Return a webhook's URL in its normal form, None for none; no name is resolved."""
    if not url:
        return None
    try:
        return egress.parse(url).url
    except EgressError as error:
        raise RequestError(
            f"The field `webhook_url` cannot be taken. {error.message}", Code.INVALID_FIELDS
        ) from None


def _refuse_unavailable(body: Options) -> None:
    """Refuse, by name, a field whose feature is not available; `false` asks for nothing."""
    unsupported = {
        "cost_quality": body.cost_quality is not None,
    }
    for name, is_requested in unsupported.items():
        if is_requested:
            raise RequestError(
                f"The field `{name}` asks for a feature that this deployment does not have.",
                Code.FEATURE_UNAVAILABLE,
            )
