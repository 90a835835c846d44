"""What must be true, as those know it who stand outside: promises, questions, sights.

Owns how a question and an answer are worded: every question carries its account's canary and its
own name, every word of an answer the number of the upstream call that made it. So a text alone
tells whose it is, what it answers, which call wrote it, and whether a word is missing or doubled.
Refuses to look into Redis.
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
    """A receipt that a client holds: these ids, for this question. Per session in their order."""

    account: str
    session: str
    generation: str
    question: str


class UpstreamCall(NamedTuple):
    """One upstream call: which question, how long the answer is, what was said before it."""

    call: int
    question: str
    words: int
    history: tuple[str, ...]

    @property
    def answer(self) -> str:
        """The whole answer that the upstream makes."""
        return f"[{self.question}]" + "".join(f" {self.call}:{at}" for at in range(self.words))


class Sample(NamedTuple):
    """A generation under way, as it was at one moment; `calls` are those its text stems from."""

    generation: str
    stage: Stage
    attempt: int
    calls: tuple[int, ...] = ()


class ShownEnd(NamedTuple):
    """The end of a generation as its client was told."""

    state: State
    content: str


@dataclass(kw_only=True)
class Evidence:
    """All that is known from outside. `granted` in microcredits by account, times in Redis' ms.

    `cancelled` is when a cancel was confirmed, by generation; `called_off` are those that were
    ended by it at once. `disturbed` counts how often something befell a generation's holder; None
    where that was not watched.
    """

    granted: dict[str, int] = field(default_factory=dict)
    accepted_messages: list[AcceptedMessage] = field(default_factory=list)
    upstream_calls: list[UpstreamCall] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    shown: dict[str, ShownEnd] = field(default_factory=dict)
    cancelled: dict[str, int] = field(default_factory=dict)
    cancelled_at_once: set[str] = field(default_factory=set)
    disturbed: Counter[str] | None = None

    def note_upstream_call(self, user_messages: Iterable[str], words: int) -> UpstreamCall:
        """Note an upstream call by the user's messages it brought; return what to answer."""
        *history, question = user_messages
        upstream_call = UpstreamCall(len(self.upstream_calls), question, words, tuple(history))
        self.upstream_calls.append(upstream_call)
        return upstream_call

    def calls(self) -> Counter[str]:
        """Count the upstream calls by question."""
        return Counter(upstream_call.question for upstream_call in self.upstream_calls)

    def histories(self) -> dict[str, list[tuple[str, ...]]]:
        """Return what each question's calls were told of before."""
        found: defaultdict[str, list[tuple[str, ...]]] = defaultdict(list)
        for upstream_call in self.upstream_calls:
            found[upstream_call.question].append(upstream_call.history)
        return found

    def sessions(self) -> dict[str, list[AcceptedMessage]]:
        """Return the promises of each session, in the order in which they were given."""
        found: defaultdict[str, list[AcceptedMessage]] = defaultdict(list)
        for accepted_message in self.accepted_messages:
            found[accepted_message.session].append(accepted_message)
        return found


class Finding(msgspec.Struct, frozen=True):
    """An invariant that does not hold, what it is about, and what was found."""

    invariant: str
    about: str
    description: str

    @override
    def __str__(self) -> str:
        return f"{self.invariant} {self.about}: {self.description}"


def question(account: str, name: str) -> str:
    """Word a question of an account; no two have the same name."""
    return f"{canary(account)} {name}"


def canary(account: str) -> str:
    """Return the word that no other account may ever see."""
    return f"canary-{account}"


def canaries_in(text: str) -> set[str]:
    """Return the canaries that a text carries."""
    return set(_CANARY.findall(text))


def calls_in(text: str) -> tuple[int, ...]:
    """Return the numbers of the calls that made an answer's words, each once, in their order."""
    return tuple(dict.fromkeys(int(call) for call in _CALL.findall(text)))


def question_in(answer: str) -> str | None:
    """Return the question that an answer repeats first; None while it has not come so far."""
    head, end, _ = answer.partition("]")
    return head.removeprefix("[") if end else None
