"""Stands for the claims of a worker in tests that decide when they are answered."""

import asyncio

from shared.redis.functions import ClaimAsk, Claimed, ClaimReply
from shared.wire.submission import Lane


class ClaimAnswers:
    """Claims that are answered when a test says so, each by as many as it asked for."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.batches: list[int] = []
        self.answers: list[asyncio.Future[ClaimReply]] = []
        self._numbers = iter(range(1_000))

    async def claim(self, _redis: object, _root: str, ask: ClaimAsk, *_: float) -> ClaimReply:
        """Note what a claim asks for, and wait for its answer."""
        self.counts.append(ask.count)
        self.batches.append(ask.batch)
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]

    def answer(self, number: int) -> None:
        """Answer a claim by as many interactive turns as it asked for."""
        taken = [self.new("interactive") for _ in range(self.counts[number])]
        self.answers[number].set_result(ClaimReply(taken, is_more=True))

    def none(self) -> None:
        """Answer every claim by nothing."""
        for answer in self.answers:
            answer.set_result(ClaimReply([], is_more=False))

    def new(self, lane: Lane) -> Claimed:
        """Return a new turn."""
        return Claimed(
            root="",
            account="ann",
            id=str(next(self._numbers)),
            lane=lane,
            attempt=1,
            turn=1,
            hold=0,
            deadline_ms=0,
            accepted_ms=0,
            claimed_ms=0,
            retries=0,
            calls=0,
            submission=b"",
            user_message=b"",
            system_prompt=None,
            companion=None,
        )
