"""The finished rounds of an answer in memory: the same as its log in Redis, entry by entry.

Pure. Owns the order of messages: the results of a round's calls follow in the order of the calls,
in whatever order they came.
"""

from collections.abc import Iterator
from typing import Final

from shared.wire import event as events
from shared.wire.conversation import CallPart, Message
from shared.wire.message import CallCost, Citation, Media
from shared.wire.round import TEXT_SEPARATOR, RoundEntry

_NO_MESSAGE: Final = Message(role="assistant", parts=())


class Round:
    """One round: the model's call, and the results so far by the ids of their calls."""

    def __init__(self, begun: RoundEntry) -> None:
        self.begun = begun
        self.message = begun.message or _NO_MESSAGE
        self.results: dict[str, RoundEntry] = {}
        self.started: set[str] = set()

    @property
    def open_calls(self) -> list[CallPart]:
        """The calls without a result."""
        return [call for call in self.message.calls if call.call_id not in self.results]

    def messages(self) -> Iterator[Message]:
        """Yield the model's message and the results."""
        yield self.message
        for call in self.message.calls:
            result = self.results.get(call.call_id)
            if result is not None and result.message is not None:
                yield result.message

    def events(self) -> Iterator[events.Event]:
        """Yield what callers saw of the round beside its text."""
        if self.begun.reasoning:
            yield events.Reasoning(self.begun.reasoning)
        for media in self.begun.media:
            yield events.Media(media.kind, media.url)
        for call in self.message.calls:
            yield events.ToolCall.of(call)
        for call_id, result in self.results.items():
            is_error = result.message is not None and result.message.is_error
            yield events.ToolResult(call_id, not is_error, result.summary)


class Rounds:
    """All rounds that have `finished`; only the last one may have calls without a result.

    `cost` is the sum of `costs`, in microcredits.
    """

    def __init__(self) -> None:
        self.finished: list[Round] = []
        self.cost = 0
        self.costs: list[CallCost] = []
        self.media: list[Media] = []
        self.citations: list[Citation] = []

    def add(self, entry: RoundEntry) -> None:
        """Add an entry of the log."""
        message = entry.message
        if message is not None and message.role == "assistant":
            self.finished.append(Round(entry))
            self.media += entry.media
            self.citations += entry.citations
            if entry.cost is not None:
                self.costs.append(entry.cost)
                self.cost += entry.cost.usage.cost
            return
        last = self.finished[-1]
        if message is not None:
            last.results[message.call_id] = entry
        last.started |= set(entry.started)
        last.started -= set(entry.suspended)

    @property
    def open_calls(self) -> list[CallPart]:
        """The calls without a result."""
        return self.finished[-1].open_calls if self.finished else []

    def is_uncertain(self, call: CallPart) -> bool:
        """Tell whether a call without a result was begun, and must not run twice."""
        return call.call_id in self.finished[-1].started

    def messages(self) -> tuple[Message, ...]:
        """Return the messages of all rounds, in the order in which a model reads them."""
        return tuple(message for each in self.finished for message in each.messages())

    def text(self) -> str:
        """Return the text that the rounds have shown."""
        texts = (each.message.text for each in self.finished)
        return TEXT_SEPARATOR.join(text for text in texts if text)

    def reasoning(self) -> str:
        """Return the reasoning that the rounds have shown."""
        return "".join(each.begun.reasoning for each in self.finished)
