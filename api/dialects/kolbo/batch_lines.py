"""A line of a batch in the Kolbo dialect: from its bytes to an Intent, or to what is wrong with it.

Pure. The batch's own options stand in for those that a line does not have.
"""

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from api.accept import options
from api.accept.intent import Intent, check_conversation
from api.batches.item_maker import Line
from api.dialects.kolbo.upload_wire import BatchItemBody, BatchOptions, ItemMessage, TextContent
from api.guards.body_kinds import JsonBody
from shared.errors import Code, RequestError
from shared.tiers import LimitSettings
from shared.wire.conversation import (
    AnswerForm,
    ImagePart,
    Message,
    Part,
    Role,
    TextPart,
)
from shared.wire.submission import AUTO, Features

# Half of a surrogate pair, as an escape may have it, is no text either.
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,128}")
_SYSTEM_ROLES: Final = frozenset({"system", "developer"})
# What the batch says for its items; its form is made only once, and its prompt is no line's own.
_INHERITED: Final = (
    "model",
    "enhance_prompt",
    "web_search",
    "deep_think",
    "max_output_tokens",
    "temperature",
    "top_p",
    "stop",
)
_ITEM: Final = JsonBody(BatchItemBody)


class _Name(msgspec.Struct):
    """The name of a line that is wrong otherwise."""

    custom_id: str | None = None


_decode_name: Final = msgspec.json.Decoder(_Name).decode


class KolboLines:
    """The lines of one batch. Raises RequestError where the batch's own options are wrong."""

    def __init__(self, defaults: BatchOptions, limits: LimitSettings) -> None:
        options.check_length("system_prompt", defaults.system_prompt, limits)
        self._limits = limits
        self._form = options.answer_form(defaults.response_format)
        self._system_prompt = defaults.system_prompt or None
        given = ((name, getattr(defaults, name)) for name in _INHERITED)
        self._defaults = {name: value for name, value in given if value is not None}

    def read(self, raw: bytes) -> Line:
        """Return what a line asks for."""
        try:
            body: BatchItemBody = _ITEM.decode(raw)
            _check_name(body.custom_id)
            return Line(body.custom_id, self._intent(body))
        except RequestError as error:
            name = _name(raw)
            return Line(name, _about_line(error))

    def _intent(self, body: BatchItemBody) -> Intent:
        if self._defaults:
            absent = {
                name: value for name, value in self._defaults.items() if getattr(body, name) is None
            }
            body = msgspec.structs.replace(body, **absent) if absent else body
        if body.messages is None:
            return self._of_message(body, body.message or "")
        if body.message is not None:
            raise RequestError(
                "The field `message` does not go with `messages`.", Code.INVALID_FIELDS
            )
        return self._of_messages(body, body.messages)

    def _of_message(self, body: BatchItemBody, message: str) -> Intent:
        options.check_message(message, self._limits)
        options.check_length("system_prompt", body.system_prompt, self._limits)
        prompt = self._system_prompt if body.system_prompt is None else body.system_prompt
        media = body.media_urls or ()
        if media:
            options.check_media(media)
        if not prompt:
            return self._made(body, message, _features(body, media), None)
        parts: tuple[Part, ...] = (TextPart(message), *map(ImagePart, media))
        conversation = (_text_message("system", prompt), Message(role="user", parts=parts))
        return self._explicit(body, conversation)

    def _of_messages(self, body: BatchItemBody, messages: list[ItemMessage]) -> Intent:
        if body.media_urls:
            raise RequestError(
                "The field `media_urls` does not go with `messages`, which have pictures of their "
                "own.",
                Code.INVALID_FIELDS,
            )
        options.check_length("system_prompt", body.system_prompt, self._limits)
        conversation = tuple(map(_message, messages))
        has_system = any(each.role in _SYSTEM_ROLES for each in conversation)
        prompt = body.system_prompt or (None if has_system else self._system_prompt)
        checked = self._explicit(body, conversation)
        if not prompt:
            return checked
        return self._explicit(body, (_text_message("system", prompt), *conversation))

    def _explicit(self, body: BatchItemBody, conversation: tuple[Message, ...]) -> Intent:
        made = self._made(body, "", _features(body, ()), conversation)
        try:
            check_conversation(made)
        except RequestError as error:
            sentence = error.message.replace("].parts[", "].content[")
            raise RequestError(sentence, error.code) from None
        return made

    def _made(
        self,
        body: BatchItemBody,
        message: str,
        features: Features,
        conversation: tuple[Message, ...] | None,
    ) -> Intent:
        return Intent(
            message=message,
            model=body.model or AUTO,
            session=None,
            system_prompt=None,
            enhance_prompt=body.enhance_prompt is not False,
            lane="batch",
            on_conflict="enqueue",
            budget=options.budget(body.max_credits),
            deadline_seconds=None,
            metadata=body.metadata or None,
            project=body.project_id,
            features=features,
            is_sessionless=True,
            conversation=conversation,
            max_output_tokens=body.max_output_tokens,
            sampling=options.sampling(body.temperature, body.top_p, body.stop),
            form=self._form_of(body),
        )

    def _form_of(self, body: BatchItemBody) -> AnswerForm:
        if body.response_format is None:
            return self._form
        return options.answer_form(body.response_format)


def _features(body: BatchItemBody, media: Sequence[str]) -> Features:
    return options.features(body.deep_think, body.web_search, media)


def _check_name(name: str | None) -> None:
    if name is not None and not _NAME.fullmatch(name):
        raise RequestError("The field `custom_id` has a control character.", Code.INVALID_FIELDS)


def _message(message: ItemMessage) -> Message:
    if isinstance(message.content, str):
        return _text_message(message.role, message.content)
    parts: tuple[Part, ...] = tuple(
        TextPart(part.text) if isinstance(part, TextContent) else ImagePart(part.image_url.url)
        for part in message.content
    )
    return Message(role=message.role, parts=parts)


def _text_message(role: Role, text: str) -> Message:
    return Message(role=role, parts=(TextPart(text),))


def _name(raw: bytes) -> str | None:
    """Return the name of a line that is wrong; None where that cannot be read either."""
    try:
        name = _decode_name(raw).custom_id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return name if name is not None and _NAME.fullmatch(name) else None


def _about_line(error: RequestError) -> RequestError:
    """Return the error of a body as that of a line."""
    sentence = error.message
    if sentence.startswith("The body"):
        sentence = f"The line{sentence.removeprefix('The body')}"
    return RequestError(sentence, error.code, details=error.details)
