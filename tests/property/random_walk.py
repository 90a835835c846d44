"""Random calls of the functions on a real server, each compared with the model.

After every step the reply and the credits equal the model's. After every `compare_every` steps
also: every generation is where the model has it and moved along the transition table only, no text
or event of an attempt without a token is visible, streams have no gap, and the invariants hold. At
the end of a walk everything left is brought to an end, and nothing stays unfinished.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from typing_extensions import override

from shared import ids
from shared.lifecycle import Stage, may_follow, stage_in
from shared.redis import functions, keys, library
from shared.redis.client import Redis
from shared.redis.functions import Accepted, Claimed, Rejected, Replayed
from shared.settings import RedisSettings
from shared.wire.message import decode_assistant, decode_user
from shared.wire.submission import Lane, OnConflict
from tests.property.model import CRASHES_MAX, Attempt, Generation, Model
from tests.support import redis_invariants
from tests.support.redis_functions import KEEP, RedisFunctions, Ticket
from tests.support.redis_server import Server
from tests.support.text_follower import text_after

T = TypeVar("T")

_accounts = st.sampled_from(["ann", "bob"])
_lanes: st.SearchStrategy[Lane] = st.sampled_from(["interactive", "batch"])
_holds = st.integers(0, 40)
_dues = st.integers(0, 50)
# A wait that ends by itself only where a walk says so.
_FAR_MS: Final = 32_503_680_000_000
_conflicts: st.SearchStrategy[OnConflict] = st.sampled_from(["enqueue", "reject", "interrupt"])


class RandomWalk(RuleBasedStateMachine):
    """One walk, under a prefix of its own; `operations` counts those of all walks of a class."""

    server: Server
    redis_settings: RedisSettings
    compare_every = 1
    operations = 0

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.claims: dict[Attempt, Claimed] = {}
        self.seen: dict[str, Stage] = {}
        self.made = 0
        self.steps = 0
        self.settings = msgspec.structs.replace(self.redis_settings, prefix=f"w{ids.new_id()}")
        self.loop = asyncio.new_event_loop()
        self.redis = Redis(self.settings)
        self.queue = RedisFunctions(self.redis, self.settings, self.settings.partitions - 1)
        self.raw_client = self.server.raw_client()
        self.run(library.load(self.redis))

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        # A Runner would set and reset a signal handler for each of these short calls.
        return self.loop.run_until_complete(call)

    def act(self, call: Coroutine[Any, Any, T]) -> T:
        """Carry out an operation and count it."""
        type(self).operations += 1
        return self.run(call)

    def ticket(self, one: Generation) -> Ticket:
        return Ticket(one.account, one.session, one.id)

    @initialize(budget=st.integers(0, 100))
    def create_accounts(self, budget: int) -> None:
        """Create accounts with a claimed generation, so that walks do not start on empty queues."""
        for account in self.model.accounts:
            self.grant(account, budget)
            self.begin(account, "interactive", 0)
        self.claim(1)

    @rule(account=_accounts, amount=st.integers(-60, 120))
    def grant(self, account: str, amount: int) -> None:
        granted = self.act(self.queue.grant(amount, account))
        assert granted == self.model.grant(account, amount)

    @rule(account=_accounts, lane=_lanes, hold=_holds)
    def begin(self, account: str, lane: Lane, hold: int) -> None:
        self._accept(self._new_generation(account, self._id("s"), lane, hold), "enqueue")

    @rule(account=_accounts, lane=_lanes, hold=_holds)
    def begin_without_session(self, account: str, lane: Lane, hold: int) -> None:
        """Accept a generation whose own id stands for a session, which no follow-up can name."""
        id_ = self._id("g")
        self._accept(Generation(id_, account, id_, lane, hold), "enqueue")
        assert not self.act(self.queue.delete_session(account, id_))
        refused = self.act(self.queue.accept(account, id_, is_new=False))
        assert refused == Rejected("no_session")

    @precondition(lambda self: self.model.real_sessions())
    @rule(data=st.data(), lane=_lanes, hold=_holds, on_conflict=_conflicts)
    def follow_up(
        self, data: st.DataObject, lane: Lane, hold: int, on_conflict: OnConflict
    ) -> None:
        session = data.draw(st.sampled_from(self.model.real_sessions()))
        account = self.model.generations[self.model.sessions[session][0]].account
        self._accept(self._new_generation(account, session, lane, hold), on_conflict)

    def _id(self, kind: str) -> str:
        """Return a new id: counted, so that a walk can be repeated."""
        self.made += 1
        return f"{kind}{self.made:04}"

    def _new_generation(self, account: str, session: str, lane: Lane, hold: int) -> Generation:
        return Generation(self._id("g"), account, session, lane, hold)

    def _accept(self, one: Generation, on_conflict: OnConflict) -> None:
        is_new = one.session not in self.model.sessions and not one.is_sessionless
        answer = self.act(
            self.queue.accept(
                one.account,
                one.session,
                is_new=is_new,
                is_sessionless=one.is_sessionless,
                generation=one.id,
                lane=one.lane,
                hold=one.hold,
                on_conflict=on_conflict,
            )
        )
        expected = self.model.accept(one, on_conflict)
        if expected == "accepted":
            assert isinstance(answer, Accepted)
            assert answer.turn == len(self.model.sessions[one.session])
        else:
            assert isinstance(answer, Rejected)
            assert answer.reason == expected

    @precondition(lambda self: self.model.generations)
    @rule(data=st.data())
    def repeat_accept(self, data: st.DataObject) -> None:
        one = self._draw_generation(data)
        again = self.act(
            self.queue.accept(
                one.account, one.session, is_sessionless=one.is_sessionless, generation=one.id
            )
        )
        assert again == Replayed(one.id, None if one.is_sessionless else one.session)

    @rule(count=st.integers(1, 4))
    def claim(self, count: int) -> None:
        ready, suspects = self.model.claimable(), self.model.suspects(count)
        is_batch_waiting = any(one.lane == "batch" for one in ready)
        worker = self._id("w")
        claimed = self.act(self.queue.claim(count, worker=worker))
        assert len(claimed) == min(count, len(suspects) + len(ready))
        assert [claim.id for claim in claimed[: len(suspects)]] == [one.id for one in suspects]
        for claim in claimed:
            one = self.model.generations[claim.id]
            assert one.where == "ready"
            if one.suspects_max is None:
                # Interactive first, except for a trickle; within an account the oldest first.
                assert one.lane == self.model.lane_due(is_batch_waiting=is_batch_waiting)
                rivals = [other for other in self.model.unsuspected() if other.number < one.number]
                assert not [o for o in rivals if (o.account, o.lane) == (one.account, one.lane)]
            attempt = self.model.claim(one, worker)
            assert claim.attempt == attempt.token
            kept = claim.kept
            assert (kept.rounds if kept else 0) == len(one.rounds)
            assert (kept.text_points if kept else 0) == len(one.kept)
            assert decode_user(claim.user_message).generation == one.id
            self.claims[attempt] = claim

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), text=st.text(max_size=5), is_repeat=st.booleans())
    def append(self, data: st.DataObject, text: str, *, is_repeat: bool) -> None:
        attempt = data.draw(st.sampled_from(list(self.claims)))
        one = self.model.holder(attempt)
        seq = max(1, one.seq + (not is_repeat)) if one else 1
        answer = self.act(self.queue.append(self.claims[attempt], seq, text))
        assert answer == self.model.append(attempt, seq, text)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), text=st.text(max_size=5), due=_dues, is_repeat=st.booleans())
    def finish_round(self, data: st.DataObject, text: str, due: int, *, is_repeat: bool) -> None:
        attempt = data.draw(st.sampled_from(list(self.claims)))
        ask, seq, entry = self._round(attempt, text, due, is_repeat=is_repeat)
        answer = self.act(functions.append(self.redis, self.queue.root, ask))
        assert answer == self.model.append(attempt, seq, text, due=due, finished=entry)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), text=st.text(max_size=5), due=_dues, is_repeat=st.booleans())
    def suspend(self, data: st.DataObject, text: str, due: int, *, is_repeat: bool) -> None:
        attempt = data.draw(st.sampled_from(list(self.claims)))
        ask, seq, entry = self._round(attempt, text, due, is_repeat=False)
        suspend_ask = functions.SuspendAsk(
            **msgspec.structs.asdict(ask), until_ms=_FAR_MS, keep=KEEP
        )
        for _ in range(1 + is_repeat):
            answer = self.act(functions.suspend(self.redis, self.queue.root, suspend_ask))
            expected = self.model.suspend(attempt, seq, text, due=due, finished=entry)
            assert answer == expected
            # The call itself goes through the stage that it names.
            if answer == "suspended" and self.seen.get(attempt.id) != "awaiting_approval":
                self.seen[attempt.id] = "calling_tool"

    def _round(
        self, attempt: Attempt, text: str, due: int, *, is_repeat: bool
    ) -> tuple[functions.AppendAsk, int, str]:
        """Return an append of a finished round, its number and its entry."""
        claimed, one, entry = self.claims[attempt], self.model.holder(attempt), self._id("r")
        seq = max(1, one.seq + (not is_repeat)) if one else 1
        shown = (one.text if one else "") + text
        bill = f"{claimed.attempt} {due} 1 1 0 0 0 alpha"
        ask = functions.AppendAsk(
            account=claimed.account,
            id=claimed.id,
            attempt=claimed.attempt,
            seq=seq,
            events=[msgspec.json.encode({"type": "delta", "text": text}).decode()],
            text=text or None,
            stage="calling_tool",
            bill=bill,
            rounds=functions.FinishedRounds(
                entries=[entry],
                text_bytes=len(shown.encode()),
                text_points=len(shown),
                bill=bill,
            ),
        )
        return ask, seq, entry

    @precondition(lambda self: self.model.generations)
    @rule(data=st.data(), is_suspended=st.booleans())
    def resume(self, data: st.DataObject, *, is_suspended: bool) -> None:
        waiting = self.model.at("suspended")
        one = (
            data.draw(st.sampled_from(waiting))
            if waiting and is_suspended
            else self._draw_generation(data)
        )
        assert self.act(self.queue.resume(self.ticket(one))) == self.model.resume(one)

    @precondition(lambda self: self.model.at("suspended"))
    @rule(data=st.data())
    def wait_comes_due(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.model.at("suspended")))
        one.is_due = True
        self._move_to_past(keys.DEFERRED, one)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), is_success=st.booleans(), cost=st.integers(0, 60))
    def settle(self, data: st.DataObject, *, is_success: bool, cost: int) -> None:
        self._settle(data.draw(st.sampled_from(list(self.claims))), cost, is_success=is_success)

    def _settle(self, attempt: Attempt, cost: int, *, is_success: bool) -> None:
        one = self.model.generations.get(attempt.id)
        seq = one.seq + 1 if one else 1
        if one and one.last and one.last[0] == attempt.token:
            seq = one.last[1]
        completes = is_success and one is not None and one.stage in {"generating", "completed"}
        stage: Stage = "completed" if completes else "failed"
        text = one.text if one else ""
        settled = self.act(
            self.queue.settle(self.claims[attempt], seq=seq, stage=stage, cost=cost, text=text)
        )
        assert settled == self.model.settle(attempt, seq, stage, cost)
        # Many worker deaths in a row are not modelled.
        self.run(self.redis.call("HDEL", keys.CLOCKS(self.queue.root), "storm"))

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), is_deferred=st.booleans())
    def release(self, data: st.DataObject, *, is_deferred: bool) -> None:
        attempt = data.draw(st.sampled_from(list(self.claims)))
        delay_ms = 600_000 if is_deferred else 0
        released = self.act(self.queue.release(self.claims[attempt], delay_ms=delay_ms))
        assert released == self.model.release(attempt, is_deferred=is_deferred)

    @precondition(lambda self: self.claims)
    @rule()
    def beat(self) -> None:
        stops = self.act(self.queue.beat(*self.claims.values()))
        expected = set()
        for attempt in self.claims:
            one = self.model.holder(attempt)
            if one is None:
                expected.add((attempt.id, attempt.token, "lost"))
            else:
                one.is_lapsed = False
                if one.is_cancelled:
                    expected.add((attempt.id, attempt.token, "cancel"))
        assert {(stop.id, stop.attempt, stop.why) for stop in stops} == expected

    @precondition(lambda self: self.model.at("leased"))
    @rule(data=st.data())
    def lease_lapses(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.model.at("leased")))
        one.is_lapsed = True
        self._move_to_past(keys.LEASES, one)

    @precondition(lambda self: self.model.at("leased"))
    @rule(data=st.data(), text=st.text(max_size=3))
    def worker_outlives_lease(self, data: st.DataObject, text: str) -> None:
        """A worker is taken for dead, another takes over, and the first one writes on."""
        late = data.draw(st.sampled_from([a for a in self.claims if self.model.holder(a)]))
        self.model.generations[late.id].is_lapsed = True
        self._move_to_past(keys.LEASES, self.model.generations[late.id])
        self.reap()
        self.generations_match_model()
        self.claim(4)
        assert self.act(self.queue.append(self.claims[late], 1, text)) == "refused"
        assert self.act(self.queue.settle(self.claims[late], seq=1, stage="failed")) is None
        assert self.act(self.queue.release(self.claims[late])) == "refused"

    @precondition(lambda self: not self.model.is_quiet)
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        under_way = [o for o in self.model.generations.values() if o.where != "ended"]
        one = data.draw(st.sampled_from(under_way))
        one.is_expired = True
        self._move_to_past(keys.DEADLINES, one)

    @precondition(lambda self: self.model.at("deferred"))
    @rule(data=st.data())
    def deferral_comes_due(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.model.at("deferred")))
        one.is_due = True
        self._move_to_past(keys.DEFERRED, one)

    def _move_to_past(self, family: keys.Key, one: Generation) -> None:
        """Move a time of this generation to the past."""
        member = f"{one.account}:{one.id}"
        self.run(self.redis.call("ZADD", family(self.queue.root), "XX", 1, member))

    @rule()
    def reap(self) -> None:
        reaped = self.act(self.queue.reap(crashes_max=CRASHES_MAX))
        assert sorted(reaped.done) == self.model.reap()

    @precondition(lambda self: self.model.generations)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        one = self._draw_generation(data)
        assert self.act(self.queue.cancel(self.ticket(one))) == self.model.cancel(one)

    @precondition(lambda self: self.model.real_sessions())
    @rule(data=st.data())
    def delete_session(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(self.model.real_sessions()))
        gone = [self.model.generations[id_] for id_ in self.model.sessions[session]]
        assert self.act(self.queue.delete_session(gone[0].account, session))
        self.model.delete_session(session)
        assert not self.act(self.queue.delete_session(gone[0].account, session))
        for one in gone:
            assert self.run(self.queue.find(one.account, one.id)) is None

    def _draw_generation(self, data: st.DataObject) -> Generation:
        return self.model.generations[data.draw(st.sampled_from(sorted(self.model.generations)))]

    @invariant()
    def redis_matches_model(self) -> None:
        self.steps += 1
        if self.steps % self.compare_every == 0:
            self.invariants_hold()
            self.generations_match_model()
        else:
            # Stages can be compared with those of the previous step only.
            self.seen.clear()

    def invariants_hold(self) -> None:
        assert redis_invariants.faults(self.raw_client, self.settings) == []

    @invariant()
    def books_match_model(self) -> None:
        assert self.run(self._read_books()) == {
            name: vars(expected) for name, expected in self.model.accounts.items()
        }

    async def _read_books(self) -> dict[str, Any]:
        names = list(self.model.accounts)
        totals = await asyncio.gather(*map(self.queue.credit_totals, names))
        return dict(zip(names, msgspec.to_builtins(totals), strict=True))

    def generations_match_model(self) -> None:
        self.run(self._compare_all())

    async def _compare_all(self) -> None:
        await asyncio.gather(*(self._compare(one) for one in self.model.generations.values()))

    async def _compare(self, one: Generation) -> None:
        status, events = await asyncio.gather(
            self.queue.status(self.ticket(one)), self.queue.events(self.ticket(one))
        )
        stage = stage_in(status.record)
        assert stage == one.stage
        before = self.seen.get(one.id, stage)
        assert stage == before or may_follow(before, stage)
        self.seen[one.id] = stage
        body = status.body or b""
        text = decode_assistant(body).content if one.where == "ended" else body.decode()
        assert text == one.text
        if one.where != "ended":
            assert text_after(event for _, event in events) == text
            assert await self.queue.rounds(self.ticket(one)) == one.rounds
        turn = self.model.sessions[one.session].index(one.id) + 1
        assert int(status.record["turn"]) == turn
        assert [at for at, _ in events] == [
            f"{epoch}-{seq}"
            for epoch in sorted(one.epochs)
            for seq in range(1, one.epochs[epoch] + 1)
        ]

    @override
    def teardown(self) -> None:
        try:
            self._drain()
        finally:
            with self.raw_client as raw_client:
                redis_invariants.sweep(raw_client, self.settings)
            self.run(self.redis.close())
            self.loop.close()

    def _drain(self) -> None:
        for one in [*self.model.at("deferred"), *self.model.at("suspended")]:
            one.is_due = True
            self._move_to_past(keys.DEFERRED, one)
        while not self.model.is_quiet:
            self.reap()
            for attempt in list(self.claims):
                self._settle(attempt, 5, is_success=True)
            self.claim(4)
        self.invariants_hold()
        self.generations_match_model()
        self.books_match_model()
        for credit_totals in self.model.accounts.values():
            assert credit_totals.held == 0
