"""The invariants, one by one: Redis compared with receipts, upstream calls and samples.

I1   every accepted generation has ended
I2   it ended once: in its record, its stream, its message and what its client was shown
I3   credits: granted = balance + settled, nothing held, each answer charged once at its own price
I4   the upstream is called at most once an attempt, and each further attempt has a cause
I5   streams have no gap, and their text is the stored answer
I6   no account sees a word of another's
I7   no word of an attempt that had lost its token is visible
I8   nothing is left over: no lease, slot, queue entry or key
I9   stages moved along the transition table only, and nothing began after its cancel
I10  a session's answers come one after the other, each to its own question

Called when nothing is unfinished any more. Repairs nothing, and knows no workload.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set as AbstractSet
from itertools import chain, groupby
from typing import Final, NamedTuple

import msgspec

from shared.lifecycle import ENDS, TRANSITIONS, Stage
from shared.redis import keys
from shared.settings import RedisSettings
from shared.wire import event as events
from tests.chaos import records
from tests.chaos.evidence import (
    Evidence,
    Finding,
    Sample,
    calls_in,
    canaries_in,
    canary,
    question_in,
)
from tests.chaos.records import Case
from tests.support import redis_invariants
from tests.support.redis_server import RawClient

_NAMES_SHOWN_MAX: Final = 200
_END_EVENTS: Final = (events.Completed, events.Failed, events.Cancelled)


def check(
    raw_client: RawClient,
    settings: RedisSettings,
    evidence: Evidence,
    others: AbstractSet[str] = frozenset(),
) -> list[Finding]:
    """Return everything that does not hold.

    `others` are the names of keys that only another version of Pollux knows.
    """
    read = records.cases(raw_client, settings, evidence.accepted_messages)
    cases = {case.accepted_message.generation: case for case in read}
    found = [finding for case in cases.values() for finding in _check_case(case, evidence)]
    found += _check_calls(cases, evidence)
    found += _check_samples(cases, evidence.samples)
    histories = evidence.histories()
    for accepted_messages in evidence.sessions().values():
        turns = [cases[accepted_message.generation] for accepted_message in accepted_messages]
        found += _check_order(turns, evidence)
        found += _check_histories(turns, histories)
    for account in evidence.granted:
        ended = [case for case in cases.values() if case.accepted_message.account == account]
        found += _check_credits(
            records.credit_totals(raw_client, settings, account), account, ended, evidence
        )
    return [*found, *_left_over(raw_client, settings, others)]


class Tally(NamedTuple):
    """How many ended in each stage, the claims of each, and how long its last claim took.

    Times in milliseconds, sorted. `lost_writes` counts generations that differ from what their
    client was shown.
    """

    stages: dict[str, int]
    attempts: dict[str, int]
    took_ms: list[int]
    lost_writes: int


def tally(raw_client: RawClient, settings: RedisSettings, evidence: Evidence) -> Tally:
    """Count the ends of all accepted messages."""
    stages: Counter[str] = Counter()
    attempts = {}
    took_ms = []
    lost_writes = 0
    for case in records.cases(raw_client, settings, evidence.accepted_messages):
        lost_writes += not case.record or any(True for _ in _as_shown_to_client(case, evidence))
        stages[case.record.get("stage", "lost")] += 1
        attempts[case.accepted_message.generation] = case.attempt
        if case.attempt and case.has_ended:
            took_ms.append(int(case.record["finished"]) - int(case.record["started"]))
    return Tally(dict(stages), attempts, sorted(took_ms), lost_writes)


def dump(raw_client: RawClient, settings: RedisSettings) -> list[str]:
    """Return the record and the stream of every generation that has not ended."""
    found = []
    for root in records.roots(settings):
        names = raw_client.names(keys.GENERATION(root, "*", "*"))
        stages = raw_client.all([("HGET", name, "stage") for name in names])
        for name, stage in zip(names, stages, strict=True):
            if stage is None or stage.decode() not in ENDS:
                stream = keys.EVENTS(root, *name.removeprefix(root).split(":")[1:])
                entries = raw_client("XRANGE", stream, "-", "+")
                found.append(f"{name}\n  {raw_client.fields(name)}\n  {entries}")
    return found


def _check_case(case: Case, evidence: Evidence) -> Iterator[Finding]:
    if not case.has_ended:
        stage = case.record.get("stage", "not there")
        yield Finding("I1", case.accepted_message.generation, f"it is {stage}")
        return
    for one in (
        _ended_once,
        _as_shown_to_client,
        _charged,
        _gapless,
        _stream_matches_message,
        _no_foreign_words,
        _no_stale_words,
    ):
        for description in one(case, evidence):
            yield Finding(_NAMES[one], case.accepted_message.generation, description)


def _ended_once(case: Case, _: Evidence) -> Iterator[str]:
    ends = [entry for entry in case.entries if isinstance(entry.event, _END_EVENTS)]
    stage = case.record["stage"]
    if len(ends) != 1 or ends != list(case.entries[-1:]):
        yield f"its stream has {len(ends)} ends, not one as its last entry"
    elif type(ends[0].event).__name__.lower() != stage:
        yield f"its record says {stage}, its stream {ends[0].event}"
    if case.assistant is None:
        yield "it has no assistant message"
    elif case.assistant.status != stage:
        yield f"its record says {stage}, its message {case.assistant.status}"


def _as_shown_to_client(case: Case, evidence: Evidence) -> Iterator[str]:
    name, stage = case.accepted_message.generation, case.record.get("stage")
    if name in evidence.cancelled_at_once and stage != "cancelled":
        yield f"its client was shown cancelled, and it is {stage}"
    shown = evidence.shown.get(name)
    if shown is None or case.assistant is None:
        return
    if shown != (stage, case.assistant.content):
        yield f"its client was shown {shown}, and now it is {case.assistant}"


def _charged(case: Case, _: Evidence) -> Iterator[str]:
    captured = int(case.record.get("captured", 0))
    usage = case.assistant.usage if case.assistant else None
    cost = usage.cost if usage else 0
    if case.record["stage"] == "failed" and captured:
        yield f"it failed and was charged {captured}"
    elif captured > cost:
        yield f"it cost {cost} and was charged {captured}"


def _gapless(case: Case, _: Evidence) -> Iterator[str]:
    for epoch, entries in groupby(case.entries, key=lambda entry: entry.epoch):
        numbers = [entry.seq for entry in entries]
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"epoch {epoch} is numbered {numbers}"
    last = case.entries[-1] if case.entries else None
    if last and f"{last.epoch}-{last.seq}" != case.record.get("last"):
        yield f"its last event is {last}, its record says {case.record.get('last')}"


def _stream_matches_message(case: Case, evidence: Evidence) -> Iterator[str]:
    """The streamed text is the stored one; a completed answer is all of one upstream call's."""
    if case.assistant is None:
        return
    content = case.assistant.content
    followed = "".join(piece.text for piece in case.visible())
    if followed != content:
        yield f"its stream has {followed!r}, its message {content!r}"
    calls = calls_in(content)
    known = [evidence.upstream_calls[call] for call in calls if call < len(evidence.upstream_calls)]
    if len(calls) > 1 or len(known) != len(calls):
        yield f"its message has words of the calls {calls}"
    elif known and not (evidence.kept_text + known[0].answer).startswith(content):
        yield f"its message has lost or doubled words: {content!r}"
    elif case.record["stage"] == "completed" and [
        evidence.kept_text + one.answer for one in known
    ] != [content]:
        yield f"it is completed with a part of the answer: {content!r}"


def _no_foreign_words(case: Case, _: Evidence) -> Iterator[str]:
    texts = [entry.event.text for entry in case.entries if isinstance(entry.event, events.Delta)]
    texts += [each.content for each in (case.user, case.assistant) if each is not None]
    foreign = canaries_in(" ".join(texts)) - {canary(case.accepted_message.account)}
    if foreign:
        yield f"{case.accepted_message.account} sees {sorted(foreign)}"


def _no_stale_words(case: Case, evidence: Evidence) -> Iterator[str]:
    """Each epoch has the words of one call, and the stored text is of the last attempt.

    What a finished round has shown stays.
    """
    text_of: defaultdict[int, str] = defaultdict(str)
    for entry in case.entries:
        if isinstance(entry.event, events.Delta):
            text_of[entry.epoch] += entry.event.text
    for epoch, text in text_of.items():
        if len(calls_in(text)) > 1:
            yield f"epoch {epoch} has words of the calls {calls_in(text)}"
    if not case.entries or case.entries[-1].epoch != case.attempt:
        return
    earlier_pieces = [piece for piece in case.visible() if piece.epoch != case.attempt]
    stale = sorted({piece.epoch for piece in earlier_pieces})
    if not evidence.kept_text.startswith("".join(piece.text for piece in earlier_pieces)):
        yield f"attempt {case.attempt} ended it, and words of the attempts {stale} are visible"
    kept = set(calls_in(case.assistant.content if case.assistant else ""))
    earlier = {
        call for epoch, text in text_of.items() if epoch < case.attempt for call in calls_in(text)
    }
    if kept & earlier:
        yield f"attempt {case.attempt} ended it with words of an earlier one"


Rule = Callable[[Case, Evidence], Iterator[str]]

_NAMES: Final[dict[Rule, str]] = {
    _ended_once: "I2",
    _as_shown_to_client: "I2",
    _charged: "I3",
    _gapless: "I5",
    _stream_matches_message: "I5",
    _no_foreign_words: "I6",
    _no_stale_words: "I7",
}


def _check_calls(cases: dict[str, Case], evidence: Evidence) -> Iterator[Finding]:
    calls = evidence.calls()
    for name, case in cases.items():
        made, attempts = calls[case.accepted_message.question], case.attempt
        if made > attempts:
            yield Finding("I4", name, f"{made} upstream calls in {attempts} attempts")
        if evidence.disturbed is not None and attempts > 1 + evidence.disturbed[name]:
            disturbances = evidence.disturbed[name]
            yield Finding(
                "I4", name, f"{attempts} attempts, but only {disturbances} were disturbed"
            )
    for upstream_call in evidence.upstream_calls:
        texts_sent = " ".join((upstream_call.question, *upstream_call.history))
        if len(canaries_in(texts_sent)) > 1:
            yield Finding(
                "I6", upstream_call.question, f"the upstream was shown {canaries_in(texts_sent)}"
            )


def _check_samples(cases: dict[str, Case], samples: Iterable[Sample]) -> Iterator[Finding]:
    """Each generation moves along the transition table, and each attempt has one call's text."""
    last: dict[str, Sample] = {}
    written: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
    ends = (
        Sample(name, msgspec.convert(case.record["stage"], Stage), case.attempt)
        for name, case in cases.items()
        if case.has_ended
    )
    for sample in chain(samples, ends):
        name = sample.generation
        before = last.get(name, Sample(name, "queued", 0))
        if sample.attempt < before.attempt or not _can_lead_to(before.stage, sample.stage):
            yield Finding("I9", name, f"it went from {before} to {sample}")
        last[name] = sample
        written[name, sample.attempt].update(sample.calls)
    for (name, attempt), calls in written.items():
        if len(calls) > 1:
            yield Finding("I7", name, f"the text of attempt {attempt} was of the calls {calls}")


def _can_lead_to(stage: Stage, following: Stage) -> bool:
    """Return whether the table leads from a stage to another, in any number of steps."""
    reached, fresh = {stage}, {stage}
    while fresh:
        fresh = set().union(*(TRANSITIONS[each] for each in fresh)) - reached
        reached |= fresh
    return following in reached


def _check_order(cases: Sequence[Case], evidence: Evidence) -> Iterator[Finding]:
    """A session's turns are its questions, answered one after the other."""
    free_ms = 0
    for number, case in enumerate(cases, 1):
        name = case.accepted_message.generation
        began, ended = (int(case.record.get(field, 0)) for field in ("started", "finished"))
        for description in _own_turn(case, number):
            yield Finding("I10", name, description)
        if began and began < free_ms:
            yield Finding(
                "I10", name, f"begun at {began}, when an earlier turn ran until {free_ms}"
            )
        cancelled = evidence.cancelled.get(name)
        if cancelled is not None and began > cancelled:
            yield Finding("I9", name, f"begun at {began}, after its cancel at {cancelled}")
        free_ms = max(free_ms, ended)


def _own_turn(case: Case, number: int) -> Iterator[str]:
    if case.record.get("turn") != str(number):
        yield f"it was promised as turn {number} and is turn {case.record.get('turn')}"
    user, asked = case.user, case.accepted_message.question
    if user is None or (user.content, user.generation) != (asked, case.accepted_message.generation):
        yield f"its question {asked!r} is stored as {user}"
    answered = question_in(case.assistant.content) if case.assistant else None
    if answered is not None and answered != asked:
        yield f"it asked {asked!r}, and {answered!r} was answered"


def _check_histories(
    cases: Sequence[Case], histories: Mapping[str, list[tuple[str, ...]]]
) -> Iterator[Finding]:
    """Each call had the completed questions before its own as its history, in order."""
    before: tuple[str, ...] = ()
    for case in cases:
        question = case.accepted_message.question
        for history in histories.get(question, []):
            if history != before:
                yield Finding("I10", question, f"its call had the history {history}, not {before}")
        if case.record.get("stage") == "completed":
            before += (question,)


def _check_credits(
    credit_totals: dict[str, int], account: str, cases: Iterable[Case], evidence: Evidence
) -> Iterator[Finding]:
    granted, balance, held, settled, overrun = (
        credit_totals.get(name, 0) for name in ("granted", "balance", "held", "settled", "overrun")
    )
    captured = cost = 0
    for case in cases:
        captured += int(case.record.get("captured", 0))
        usage = case.assistant.usage if case.assistant else None
        cost += usage.cost if usage else 0
    if granted != evidence.granted[account]:
        yield Finding("I3", account, f"was granted {evidence.granted[account]}: {credit_totals}")
    if held or granted != balance + settled:
        yield Finding("I3", account, f"the credits do not add up: {credit_totals}")
    if (settled, settled + overrun) != (captured, cost):
        yield Finding("I3", account, f"answers cost {cost}, {captured} captured: {credit_totals}")


def _left_over(
    raw_client: RawClient, settings: RedisSettings, others: AbstractSet[str]
) -> Iterator[Finding]:
    for description in redis_invariants.faults(raw_client, settings, others):
        yield Finding("I8", "the keys", description)
    for root in records.roots(settings):
        for family in keys.FAMILIES.values():
            if family.end == "deleted":
                pattern = family(root, *("*" for _ in family.parts))
                names = raw_client.names(pattern)[:_NAMES_SHOWN_MAX]
                yield from (Finding("I8", name, "is left although nothing runs") for name in names)
