"""A conversation as it is sent to a model: messages of any role, each a list of parts.

The one form of messages that an explicit conversation, a session's turn with calls of tools, and
the log of a running answer share. Owns which parts a message of each role may have, and which order
of messages is lawful; knows no provider and no caller's dialect.

Example: a question that a tool helped to answer is four messages: user (text), assistant (call),
tool (text, `call_id` names the call), assistant (text).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

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


class AnswerOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the caller says of the answer; a part of what is asked, stored and sent to a model.

    `tools` are the caller's own, and `tool_choice` counts where there are any.
    """

    tools: tuple[ToolDefinition, ...] = ()
    tool_choice: ToolChoice = AUTO_CHOICE
    sampling: Sampling = DEFAULT_SAMPLING
    form: AnswerForm = FREE_TEXT


MESSAGES_MAX: Final = 2_000
PARTS_MAX: Final = 10_000
IMAGES_MAX: Final = 32
TOOLS_MAX: Final = 128
# Of all texts, calls, opaque parts and tools together.
CONVERSATION_BYTES_MAX: Final = 4 * 1024 * 1024
# Of the schema of a tool, and of an opaque part.
DEPTH_MAX: Final = 32
_ID_CHARACTERS_MAX: Final = 256
_URL_CHARACTERS_MAX: Final = 4_096
_TOOL_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_PARTS_OF_ROLE: Final[dict[Role, tuple[type, ...]]] = {
    "system": (TextPart,),
    "developer": (TextPart,),
    "user": (TextPart, ImagePart),
    "assistant": (TextPart, CallPart, OpaquePart),
    "tool": (TextPart, ImagePart),
}
_encode_json: Final = msgspec.json.Encoder().encode


class Fault(NamedTuple):
    """What is wrong with a conversation, and where: `place` is like `messages[2].parts[0]`."""

    place: str
    problem: str

    @property
    def sentence(self) -> str:
        """The fault as a sentence for the caller."""
        return f"The field `{self.place}` {self.problem}."


def find_fault(
    messages: Sequence[Message] | None,
    tools: Sequence[ToolDefinition] = (),
    choice: ToolChoice = AUTO_CHOICE,
) -> Fault | None:
    """Return the first fault of an explicit conversation, if there is one, and of its tools.

    Lawful: every call has exactly one result before the next message of another role, results are
    of such calls, each role has only its own parts, and all is within bounds.
    """
    return next(_faults(messages, tools, choice), None)


def _faults(
    messages: Sequence[Message] | None, tools: Sequence[ToolDefinition], choice: ToolChoice
) -> Iterator[Fault]:
    if messages is not None:
        yield from _faults_of_size(messages)
        for index, message in enumerate(messages):
            yield from _faults_of_message(message, f"messages[{index}]")
        yield from _faults_of_order(messages)
    yield from _faults_of_tools(tools)
    yield from _faults_of_choice(choice, tools)
    if size(messages or (), tools) > CONVERSATION_BYTES_MAX:
        yield Fault("messages", f"and the tools have more than {CONVERSATION_BYTES_MAX} bytes")


def _faults_of_size(messages: Sequence[Message]) -> Iterator[Fault]:
    if not messages:
        yield Fault("messages", "is empty")
    if len(messages) > MESSAGES_MAX:
        yield Fault("messages", f"has more than {MESSAGES_MAX} messages")
    if sum(len(message.parts) for message in messages) > PARTS_MAX:
        yield Fault("messages", f"has more than {PARTS_MAX} parts in all")
    if len(images(messages)) > IMAGES_MAX:
        yield Fault("messages", f"has more than {IMAGES_MAX} images in all")


def _faults_of_message(message: Message, place: str) -> Iterator[Fault]:
    if message.role == "tool":
        if not message.call_id:
            yield Fault(f"{place}.call_id", "is missing: a result is that of a call")
    elif message.call_id or message.is_error:
        yield Fault(place, f"has a field of tools' messages, but the role `{message.role}`")
    elif all(isinstance(part, OpaquePart) for part in message.parts):
        yield Fault(f"{place}.parts", "has neither text nor anything else to read")
    known: set[str] = set()
    for index, part in enumerate(message.parts):
        yield from _faults_of_part(part, message.role, f"{place}.parts[{index}]")
        if isinstance(part, CallPart):
            if part.call_id in known:
                yield Fault(f"{place}.parts[{index}].call_id", "is that of an earlier call")
            known.add(part.call_id)


def _faults_of_part(part: Part, role: Role, place: str) -> Iterator[Fault]:
    if not isinstance(part, _PARTS_OF_ROLE[role]):
        yield Fault(place, f"is of a kind that a message of the role `{role}` cannot have")
    if isinstance(part, CallPart):
        if not 0 < len(part.call_id) <= _ID_CHARACTERS_MAX:
            yield Fault(f"{place}.call_id", f"must have 1 to {_ID_CHARACTERS_MAX} characters")
        if not _TOOL_NAME.fullmatch(part.tool):
            yield Fault(f"{place}.tool", "is no name of a tool")
    elif isinstance(part, ImagePart) and not 0 < len(part.url) <= _URL_CHARACTERS_MAX:
        yield Fault(f"{place}.url", f"must have 1 to {_URL_CHARACTERS_MAX} characters")
    elif isinstance(part, OpaquePart) and is_deeper(part.value, DEPTH_MAX):
        yield Fault(f"{place}.value", f"is deeper than {DEPTH_MAX} levels")


def _faults_of_order(messages: Sequence[Message]) -> Iterator[Fault]:
    """Yield calls without a result, results without a call, and an end that asks for nothing."""
    called = 0
    waiting: set[str] = set()
    results: set[str] = set()
    for index, message in enumerate(messages):
        if message.role == "tool":
            yield from _faults_of_result(message, f"messages[{index}]", waiting, results)
            waiting.discard(message.call_id)
            results.add(message.call_id)
            continue
        if waiting:
            yield _without_result(called, messages[called], waiting)
        called, results = index, set()
        waiting = {call.call_id for call in message.calls}
    if waiting:
        yield _without_result(called, messages[called], waiting)
    elif messages and messages[-1].role == "assistant":
        yield Fault(f"messages[{len(messages) - 1}]", "is the last, and there is nothing to answer")


def _faults_of_result(
    message: Message, place: str, waiting: set[str], results: set[str]
) -> Iterator[Fault]:
    if message.call_id and message.call_id not in waiting:
        is_second = message.call_id in results
        problem = "already has a result" if is_second else "is no call of the message before"
        yield Fault(f"{place}.call_id", problem)


def _without_result(index: int, message: Message, waiting: set[str]) -> Fault:
    """Return the fault of the first call whose result is missing."""
    part = next(
        number
        for number, part in enumerate(message.parts)
        if isinstance(part, CallPart) and part.call_id in waiting
    )
    return Fault(f"messages[{index}].parts[{part}]", "has no result before the next message")


def _faults_of_tools(tools: Sequence[ToolDefinition]) -> Iterator[Fault]:
    if len(tools) > TOOLS_MAX:
        yield Fault("tools", f"has more than {TOOLS_MAX} tools")
    known: set[str] = set()
    for index, tool in enumerate(tools):
        place = f"tools[{index}]"
        if not _TOOL_NAME.fullmatch(tool.name):
            yield Fault(f"{place}.name", "must be 1 to 64 letters, digits, `_` and `-`")
        if tool.name in known:
            yield Fault(f"{place}.name", "is that of an earlier tool")
        known.add(tool.name)
        if tool.parameters.get("type", "object") != "object":
            yield Fault(f"{place}.parameters", "must be the schema of an object")
        if is_deeper(tool.parameters, DEPTH_MAX):
            yield Fault(f"{place}.parameters", f"is deeper than {DEPTH_MAX} levels")


def _faults_of_choice(choice: ToolChoice, tools: Sequence[ToolDefinition]) -> Iterator[Fault]:
    if choice.mode in {"required", "named"} and not tools:
        yield Fault("tool_choice", "requires a call, but there are no tools")
    elif choice.mode == "named" and choice.name not in {tool.name for tool in tools}:
        yield Fault("tool_choice.name", "is the name of none of the tools")


def is_deeper(value: object, levels: int) -> bool:
    """Tell whether a JSON value has objects and lists within each other beyond so many levels."""
    layer: list[object] = [value]
    for _ in range(levels + 1):
        layer = [inner for outer in layer for inner in _inner(outer)]
        if not layer:
            return False
    return True


def _inner(value: object) -> Iterable[object]:
    """Return the objects and lists in one."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [item for item in items if isinstance(item, (dict, list))]


def images(messages: Iterable[Message]) -> tuple[tuple[str, str], ...]:
    """Return where each image stands, as in `messages[2].parts[0]`, and its URL, in their order."""
    return tuple(
        (f"messages[{number}].parts[{index}]", part.url)
        for number, message in enumerate(messages)
        for index, part in enumerate(message.parts)
        if isinstance(part, ImagePart)
    )


def size(messages: Iterable[Message], tools: Iterable[ToolDefinition] = ()) -> int:
    """Return the bytes of what a model reads of messages and tools, images not counted."""
    parts = (part for message in messages for part in message.parts)
    return sum(map(part_size, parts)) + sum(map(tool_size, tools))


def part_size(part: object) -> int:
    """Return the bytes of a text, a call or an opaque part; 0 for an image."""
    match part:
        case TextPart(text):
            return len(text.encode())
        case CallPart(_, tool, arguments):
            return len(tool) + len(arguments.encode())
        case OpaquePart(_, value):
            return len(_encode_json(value))
        case _:
            return 0


def tool_size(tool: ToolDefinition) -> int:
    """Return the bytes of a tool's name, description and schema."""
    return len(tool.name) + len(tool.description.encode()) + len(_encode_json(tool.parameters))
