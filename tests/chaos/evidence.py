"""What is known about a run without reading Redis: receipts, upstream calls, samples.

Owns how questions and answers are worded: every question contains its account's canary word and a
unique name, every word of an answer the number of the upstream call that produced it. So a text
alone shows whose it is, what it answers, which call wrote it, and whether a word is missing or
doubled. Does not read Redis.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec
from typing_extensions import override

from shared.lifecycle import Stage, State

_CANARY: Final = re.compile(r"canary-[\w-]+")
_CALL: Final = re.compile(r" (\d+):\d+")


class AcceptedMessage(NamedTuple):
    """A message for which a client has a receipt. Those of a session are in order."""

    account: str
    session: str
    generation: str
    question: str


class UpstreamCall(NamedTuple):
    """One upstream call: its question, the length of its answer, and earlier user messages."""

    call: int
    question: str
    words: int
    history: tuple[str, ...]

    @property
    def answer(self) -> str:
        """The whole answer of the upstream."""
        return f"[{self.question}]" + "".join(f" {self.call}:{at}" for at in range(self.words))


class Sample(NamedTuple):
    """An unfinished generation at one moment; `calls` are the upstream calls in its text."""

    generation: str
    stage: Stage
    attempt: int
    calls: tuple[int, ...] = ()


class ShownEnd(NamedTuple):
    """The end of a generation that its client was shown."""

    state: State
    content: str


@dataclass(kw_only=True)
class Evidence:
    """All that is known from outside. `granted` in microcredits by account, times in Redis' ms.

    `cancelled` is when a cancel was confirmed, by generation; `cancelled_at_once` are those that it
    ended at once. `disturbed` counts the faults that hit the worker of each generation; None where
    they were not recorded. `kept_text` comes before each answer: what a finished round has shown.
    """

    granted: dict[str, int] = field(default_factory=dict)
    accepted_messages: list[AcceptedMessage] = field(default_factory=list)
    upstream_calls: list[UpstreamCall] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    shown: dict[str, ShownEnd] = field(default_factory=dict)
    cancelled: dict[str, int] = field(default_factory=dict)
    cancelled_at_once: set[str] = field(default_factory=set)
    disturbed: Counter[str] | None = None
    kept_text: str = ""

    def note_upstream_call(self, user_messages: Iterable[str], words: int) -> UpstreamCall:
        """Note an upstream call with these user messages; return it with its answer."""
        *history, question = user_messages
        upstream_call = UpstreamCall(len(self.upstream_calls), question, words, tuple(history))
        self.upstream_calls.append(upstream_call)
        return upstream_call

    def calls(self) -> Counter[str]:
        """Count the upstream calls by question."""
        return Counter(upstream_call.question for upstream_call in self.upstream_calls)

    def histories(self) -> dict[str, list[tuple[str, ...]]]:
        """Return the earlier user messages of each question's calls."""
        found: defaultdict[str, list[tuple[str, ...]]] = defaultdict(list)
        for upstream_call in self.upstream_calls:
            found[upstream_call.question].append(upstream_call.history)
        return found

    def sessions(self) -> dict[str, list[AcceptedMessage]]:
        """Return the accepted messages of each session in order."""
        found: defaultdict[str, list[AcceptedMessage]] = defaultdict(list)
        for accepted_message in self.accepted_messages:
            found[accepted_message.session].append(accepted_message)
        return found


class Finding(msgspec.Struct, frozen=True):
    """An invariant that does not hold: the generation or account, and what was found."""

    invariant: str
    about: str
    description: str

    @override
    def __str__(self) -> str:
        return f"{self.invariant} {self.about}: {self.description}"


def question(account: str, name: str) -> str:
    """Return a question of an account; names are unique."""
    return f"{canary(account)} {name}"


def canary(account: str) -> str:
    """Return the word that no other account may see."""
    return f"canary-{account}"


def canaries_in(text: str) -> set[str]:
    """Return the canary words in a text."""
    return set(_CANARY.findall(text))


def calls_in(text: str) -> tuple[int, ...]:
    """Return the numbers of the upstream calls whose words are in a text, each once, in order."""
    return tuple(dict.fromkeys(int(call) for call in _CALL.findall(text)))


def question_in(answer: str) -> str | None:
    """Return the question that an answer starts with, after what is kept of a round.

    None while it is incomplete.
    """
    head, end, _ = answer.partition("]")
    return head.partition("[")[2] if end else None
