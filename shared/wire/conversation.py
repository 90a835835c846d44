"""A conversation as it is sent to a model: messages of any role, each a list of parts.

The one form of messages that an explicit conversation, a session's turn with calls of tools, and
the log of a running answer share. Owns which parts a message of each role may have, and which order
of messages is lawful; knows no provider and no caller's dialect.

Example: a question that a tool helped to answer is four messages: user (text), assistant (call),
tool (text, `call_id` names the call), assistant (text).
"""

from typing import Any, Final, Literal

import msgspec

# What models write where a tool takes no arguments.
_NO_ARGUMENTS: Final = frozenset({"", "null"})
_decode_object: Final = msgspec.json.Decoder(dict[str, Any]).decode

Role = Literal["system", "developer", "user", "assistant", "tool"]


class TextPart(msgspec.Struct, frozen=True, tag="text"):
    """A piece of text."""

    text: str


class ImagePart(msgspec.Struct, frozen=True, tag="image"):
    """A picture by reference: the URL that the caller named."""

    url: str


class CallPart(msgspec.Struct, frozen=True, tag="call"):
    """An assistant's call of a tool; `arguments` is the text as the model wrote it."""

    call_id: str
    tool: str
    arguments: str

    @property
    def object(self) -> dict[str, Any] | None:
        """The arguments, decoded; None where the model wrote no JSON object."""
        if self.arguments.strip() in _NO_ARGUMENTS:
            return {}
        try:
            return _decode_object(self.arguments)
        except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
            return None


class OpaquePart(msgspec.Struct, frozen=True, tag="opaque"):
    """What a provider wants back unchanged: a signature, encrypted reasoning.

    It stands where the provider wrote it, and is sent to providers of the same `dialect` only; to
    no other than `provider` if that is known, since no other can read it.
    """

    dialect: str
    value: dict[str, Any]
    provider: str = ""


Part = TextPart | ImagePart | CallPart | OpaquePart


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message. A tool's message is the result of the call `call_id`, or its failure."""

    role: Role
    parts: tuple[Part, ...]
    call_id: str = ""
    is_error: bool = False

    @property
    def text(self) -> str:
        """All text of the message, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def calls(self) -> tuple[CallPart, ...]:
        """The calls of tools in the message."""
        return tuple(part for part in self.parts if isinstance(part, CallPart))


class ToolDefinition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tool that a model may call; `parameters` is the JSON schema of an object.

    `is_strict`: the provider is asked to hold the arguments to the schema.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}
    is_strict: bool = False


class ToolChoice(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether the model must call a tool; `name` is set for the mode `named` only."""

    mode: Literal["auto", "none", "required", "named"] = "auto"
    name: str = ""


class Sampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How tokens are drawn, and the texts that end an answer; None leaves it to the provider."""

    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()


class AnswerForm(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The form of the answer: free text, a JSON object, or JSON of a schema that has a `name`."""

    kind: Literal["text", "json_object", "json_schema"] = "text"
    name: str = ""
    schema: dict[str, Any] = {}
    is_strict: bool = False


AUTO_CHOICE = ToolChoice()
DEFAULT_SAMPLING = Sampling()
FREE_TEXT = AnswerForm()
