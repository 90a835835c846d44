"""What the Redis functions should do, in plain Python.

Owns the expected reply of each call and the expected state after it. Knows nothing of Redis: no
keys, no scores, no time. Fairness between accounts is not modelled: a claim may take the first
generation of any account.
"""

from dataclasses import dataclass, field
from math import ceil
from typing import Final, Literal

from shared.lifecycle import ENDS, Stage
from shared.redis.functions import AlreadyEnded, Cancelled, NotGranted, Settled
from shared.wire.submission import Lane, OnConflict

Where = Literal["waiting", "ready", "leased", "deferred", "suspended", "ended"]

CRASHES_MAX: Final = 3
TRICKLE: Final = 20


@dataclass
class Generation:
    """One generation. `epochs` counts the events of each attempt, as a stream shows them.

    `rounds` are its finished rounds, which have shown `kept` of the text; `due` is what an end by
    request or by time charges for the text so far, and `kept_due` for the rounds. `resumed` is the
    attempt in which a person decided before it waited.
    """

    id: str
    account: str
    session: str
    lane: Lane
    hold: int
    number: int = 0
    stage: Stage = "queued"
    where: Where = "waiting"
    attempt: int = 0
    crashes: int = 0
    suspects_max: int | None = None
    worker: str = ""
    seq: int = 0
    text: str = ""
    rounds: list[str] = field(default_factory=list)
    kept: str = ""
    due: int = 0
    kept_due: int = 0
    captured: int = 0
    last: tuple[int, int] | None = None
    is_lapsed: bool = False
    is_expired: bool = False
    is_due: bool = False
    is_cancelled: bool = False
    resumed: int = 0
    epochs: dict[int, int] = field(default_factory=dict)

    @property
    def is_sessionless(self) -> bool:
        """Whether it has no session: its own id stands for one."""
        return self.session == self.id


def _freed(one: Generation) -> int:
    """Return what an interrupt frees of a hold."""
    return max(0, one.hold - one.due)


@dataclass(frozen=True)
class Attempt:
    """A claim: the generation's id and the fencing token."""

    id: str
    token: int


@dataclass
class Account:
    """The credits of an account."""

    granted: int = 0
    balance: int = 0
    held: int = 0
    settled: int = 0
    overrun: int = 0


class Model:
    """One partition."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {"ann": Account(), "bob": Account()}
        self.generations: dict[str, Generation] = {}
        self.sessions: dict[str, list[str]] = {}
        self._number = 0
        self.claims_since_batch = 0
        self._lapsed: set[str] = set()

    def real_sessions(self) -> list[str]:
        """Return the sessions that follow-ups and deletions can name."""
        return sorted(session for session in self.sessions if session not in self.generations)

    def unfinished(self, session: str) -> list[Generation]:
        """Return the unfinished generations of a session, in the order of its turns."""
        turns = (self.generations[id_] for id_ in self.sessions.get(session, []))
        return [one for one in turns if one.where != "ended"]

    def at(self, where: Where) -> list[Generation]:
        """Return the generations in a place."""
        return [one for one in self.generations.values() if one.where == where]

    def holder(self, attempt: Attempt) -> Generation | None:
        """Return the generation that an attempt holds, if its token is the current one."""
        one = self.generations.get(attempt.id)
        return one if one and one.where == "leased" and one.attempt == attempt.token else None

    def grant(self, account: str, amount: int) -> int | NotGranted:
        """Grant credits; a negative amount takes free ones."""
        credit_totals = self.accounts[account]
        if credit_totals.balance + amount < 0:
            return "poor"
        credit_totals.granted += amount
        credit_totals.balance += amount
        return credit_totals.balance

    def accept(self, one: Generation, on_conflict: OnConflict) -> str:
        """Accept a generation; return what `accept` should reply."""
        busy = self.unfinished(one.session)
        credit_totals = self.accounts[one.account]
        if busy and on_conflict == "reject":
            return "busy"
        # An interrupt is paid by the holds that it frees: those of waiting turns, and if these are
        # not enough, that of the running answer, which then ends at once.
        is_freeing = on_conflict == "interrupt"
        freed = sum(_freed(each) for each in busy if is_freeing and each.where != "leased")
        is_hold_needed = credit_totals.balance + freed < one.hold
        if (
            is_hold_needed
            and credit_totals.balance + sum(_freed(each) for each in busy if is_freeing) < one.hold
        ):
            return "poor"
        if busy and on_conflict == "interrupt":
            for waiting in reversed(busy):
                if is_hold_needed and waiting.where == "leased":
                    self._end(waiting, "cancelled", cost=waiting.due)
                else:
                    self.cancel(waiting)
        credit_totals.balance -= one.hold
        credit_totals.held += one.hold
        self._number += 1
        one.number = self._number
        self.generations[one.id] = one
        self.sessions.setdefault(one.session, []).append(one.id)
        if len(self.unfinished(one.session)) == 1:
            one.where = "ready"
        return "accepted"

    def lane_due(self, *, is_batch_waiting: bool) -> Lane:
        """Return the lane of the next claim: interactive, except every 20th while batch waits."""
        lanes = {one.lane for one in self.unsuspected()}
        is_batch_due = is_batch_waiting and self.claims_since_batch >= TRICKLE - 1
        lane: Lane = "batch" if is_batch_due or lanes == {"batch"} else "interactive"
        due: Lane = lane if lane in lanes else "interactive"
        if is_batch_waiting:
            self.claims_since_batch = 0 if due == "batch" else self.claims_since_batch + 1
        return due

    def claimable(self) -> list[Generation]:
        """Return what is ready, interactive first; the order among accounts is not modelled."""
        return sorted(self.unsuspected(), key=lambda one: (one.lane == "batch", one.number))

    def unsuspected(self) -> list[Generation]:
        """Return what is ready and not a suspect."""
        return [one for one in self.at("ready") if one.suspects_max is None]

    def suspects(self, count: int) -> list[Generation]:
        """Return the suspects that one claim of `count` takes, for a worker that has none."""
        waiting = [one for one in self.at("ready") if one.suspects_max is not None]
        taken: list[Generation] = []
        for one in sorted(waiting, key=lambda one: (one.lane == "batch", one.number)):
            together = [*taken, one]
            if len(together) <= min(max(1, each.suspects_max or 0) for each in together):
                taken = together
        return taken[:count]

    def claim(self, one: Generation, worker: str) -> Attempt:
        """Hand a ready generation to a worker."""
        one.worker = worker
        one.where, one.stage, one.seq, one.text = "leased", "routing", 0, one.kept
        one.due = one.kept_due
        one.attempt += 1
        if one.attempt > 1:
            one.seq = one.epochs[one.attempt] = 1
        one.is_lapsed = False
        return Attempt(one.id, one.attempt)

    def append(
        self,
        attempt: Attempt,
        seq: int,
        text: str,
        *,
        due: int | None = None,
        finished: str | None = None,
    ) -> str:
        """Append one event; a number that was used before changes nothing.

        With an entry of a round that has `finished`, all text so far is kept.
        """
        one = self.holder(attempt)
        if one is None:
            return "refused"
        if seq > one.seq:
            self._produce(one, seq, text, one.due if due is None else due, finished)
        return "cancel" if one.is_cancelled else "appended"

    def _produce(
        self, one: Generation, seq: int, text: str, due: int, finished: str | None
    ) -> None:
        one.seq, one.stage, one.text, one.due = seq, "generating", one.text + text, due
        one.epochs[one.attempt] = one.epochs.get(one.attempt, 0) + 1
        if finished is not None:
            one.rounds.append(finished)
            one.kept, one.kept_due, one.stage = one.text, due, "calling_tool"

    def suspend(self, attempt: Attempt, seq: int, text: str, *, due: int, finished: str) -> str:
        """Suspend an attempt, whose last round has finished."""
        one = self.generations.get(attempt.id)
        if one and one.where == "suspended" and one.attempt == attempt.token:
            return "suspended"
        one = self.holder(attempt)
        if one is None:
            return "refused"
        if seq > one.seq:
            self._produce(one, seq, text, due, finished)
        if one.is_cancelled:
            self._end(one, "cancelled", cost=one.due)
            return "cancelled"
        self._announce(one)
        one.where, one.stage, one.is_due = "suspended", "awaiting_approval", False
        self._move_deadline(one)
        one.suspects_max, one.crashes = None, 0
        if one.resumed == one.attempt:
            self.resume(one)
        return "suspended"

    def resume(self, one: Generation) -> str:
        """End the wait of a suspended generation, or of an attempt that is about to suspend."""
        if one.where == "leased":
            one.resumed = one.attempt
        if one.where != "suspended":
            return "not_suspended"
        self._announce(one)
        one.where, one.stage = "ready", "queued"
        self._move_deadline(one)
        return "resumed"

    def _move_deadline(self, one: Generation) -> None:
        """Set the deadline again by the record, where a walk has changed its queue only."""
        one.is_expired = False

    def settle(self, attempt: Attempt, seq: int, stage: Stage, cost: int) -> Settled | None:
        """End an attempt."""
        one = self.generations.get(attempt.id)
        if one is not None and one.last == (attempt.token, seq):
            return Settled(one.captured)
        one = self.holder(attempt)
        if one is None:
            return None
        self._end(one, stage, cost=cost, at=(attempt.token, seq))
        return Settled(one.captured)

    def release(self, attempt: Attempt, *, is_deferred: bool) -> str:
        """Release an attempt."""
        one = self.holder(attempt)
        if one is None:
            return "refused"
        if one.is_cancelled:
            self._end(one, "cancelled", cost=one.due)
            return "cancelled"
        one.is_due = False
        if is_deferred:
            self._retry_later(one, "deferred")
        else:
            one.where, one.stage = "ready", "queued"
        one.suspects_max, one.crashes = None, 0
        return "released"

    def cancel(self, one: Generation) -> Cancelled | AlreadyEnded:
        """Cancel a generation."""
        if one.where == "ended":
            return AlreadyEnded(one.stage)
        if one.where == "leased":
            one.is_cancelled = True
            return Cancelled(None)
        self._end(one, "cancelled", cost=one.due)
        return Cancelled(one.hold - one.captured)

    def reap(self) -> list[tuple[str, str, str]]:
        """Requeue or end what has lapsed; return what was done with each generation."""
        lapsed = [one for one in self.at("leased") if one.is_lapsed]
        held = {one.worker: self._held(one.worker) for one in lapsed}
        self._lapsed.update(held)
        done = [self._expire_lease(one, held[one.worker]) for one in lapsed]
        for one in list(self.generations.values()):
            if one.is_expired and one.where != "ended":
                self._end(one, "failed", cost=one.due)
                done.append((one.account, one.id, "expired"))
        for one in self.at("deferred"):
            if one.is_due:
                one.where = "ready"
        for one in self.at("suspended"):
            if one.is_due:
                self.resume(one)
        return sorted(done)

    def delete_session(self, session: str) -> None:
        """Delete a session and all of its generations."""
        for one in reversed(self.unfinished(session)):
            self._end(one, "cancelled", cost=one.due)
        for id_ in self.sessions.pop(session):
            del self.generations[id_]

    def _expire_lease(self, one: Generation, held: int) -> tuple[str, str, str]:
        what = "crashed"
        if one.is_cancelled:
            self._end(one, "cancelled", cost=one.due)
            what = "cancelled"
        else:
            self._count_suspicion(one, held)
            if one.crashes >= CRASHES_MAX:
                self._end(one, "failed")
                what = "buried"
            else:
                self._retry_later(one, "ready")
        return one.account, one.id, what

    def _held(self, worker: str) -> int:
        """Return how many a worker held; one more where others lapsed before or will lapse."""
        leased = [one for one in self.at("leased") if one.worker == worker]
        lapsed = sum(one.is_lapsed for one in leased)
        is_piece = worker in self._lapsed or (lapsed == 1 and len(leased) > 1)
        return lapsed + is_piece

    def _count_suspicion(self, one: Generation, held: int) -> None:
        """Count a death against the only suspect; of several none is counted."""
        if one.suspects_max is None:
            one.suspects_max = held if held > 1 else 0
        elif one.suspects_max > 1:
            one.suspects_max = ceil(one.suspects_max / 4)
        else:
            one.crashes += 1 if one.suspects_max else 2
            one.suspects_max = 1

    def _retry_later(self, one: Generation, where: Where) -> None:
        """End an attempt with an event, and queue another."""
        one.where, one.stage = where, "retrying"
        self._announce(one)

    def _announce(self, one: Generation) -> None:
        """Append an event with the stage."""
        one.seq += 1
        one.epochs[one.attempt] = one.epochs.get(one.attempt, 0) + 1

    def _end(
        self, one: Generation, stage: Stage, *, cost: int = 0, at: tuple[int, int] | None = None
    ) -> bool:
        """End a generation and make the session's next turn ready; return whether there was one."""
        credit_totals = self.accounts[one.account]
        was_head = one.where != "waiting"
        one.captured = min(one.hold, cost)
        credit_totals.held -= one.hold
        credit_totals.balance += one.hold - one.captured
        credit_totals.settled += one.captured
        credit_totals.overrun += cost - one.captured
        one.last = at or (one.attempt + 1, 1)
        one.epochs[one.last[0]] = one.epochs.get(one.last[0], 0) + 1
        one.where, one.stage = "ended", stage
        following = self.unfinished(one.session)
        if not was_head or not following:
            return False
        following[0].where = "ready"
        return True

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is unfinished."""
        return all(one.stage in ENDS for one in self.generations.values())
