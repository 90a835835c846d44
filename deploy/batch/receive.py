"""Receives a batch's answers until it has ended, across broken connections and restarts of the API.

Owns when to ask again: a response ends where nothing more has ended, and the next one continues
after the last line that was written. Waits while a batch lacks credits or memory; returns when it
is paused by someone or by its limit, which only someone ends.
"""

from typing import Final

import httpx

from deploy.batch.answers import Answers, replacement
from deploy.batch.batch_api import BatchApi, RefusalError
from deploy.batch.display import Display
from deploy.batch.wire import FINAL_STATES, Batch
from shared.clock import Clock
from shared.errors import Code, RequestError, UnavailableError

_SHORT_RESPONSES_MAX: Final = 5
# Pauses that end by themselves.
_WAITED_FOR: Final = {
    "credits": "The account has no credits left for the next item; more of them, and it goes on.",
    "memory": "Pollux has no room for more items; it goes on when there is.",
}


class Receiver:
    """Writes the answers of one batch."""

    def __init__(
        self, api: BatchApi, clock: Clock, display: Display, batch: Batch, answers: Answers
    ) -> None:
        self.batch = batch
        self._api = api
        self._clock = clock
        self._display = display
        self._answers = answers
        self._looked_at = clock.monotonic()
        self._noted_reason: str | None = None
        self._short_responses = 0

    async def follow(self) -> Batch:
        """Write answers until the batch has ended, or waits for someone. Raises PolluxError."""
        while True:
            # Read first: what had ended by then is in the response.
            await self._look()
            had_ended = self.batch.has_ended
            state = await self.receive_once({})
            if (state in FINAL_STATES or had_ended) and await self._is_complete():
                return self.batch
            if self._is_stopped():
                return self.batch
            await self._clock.sleep(self.batch.poll_interval_hint)

    async def receive_once(self, filters: dict[str, str | int]) -> str:
        """Write what has ended so far; return the batch's state when the last response began."""
        state = ""

        def remember(now: str) -> None:
            nonlocal state
            state = now

        while True:
            params = self._answers.params | filters
            try:
                async for lines in self._api.stream_results(self.batch.batch_id, params, remember):
                    self._answers.write(lines)
                    await self._look_if_due()
            except (httpx.RequestError, RefusalError) as error:
                await self._api.pause_after(error)
            else:
                self._api.timer.reset()
                return state

    async def rewrite(self) -> None:
        """Write the file again from the start, because items were run again."""
        path = self._answers.path
        if path is None:
            return
        with replacement(path, self.batch.batch_id) as answers:
            again = Receiver(self._api, self._clock, self._display, self.batch, answers)
            await again.follow()
            self._answers.states, self._answers.failures = answers.states, answers.failures

    async def _is_complete(self) -> bool:
        """Return whether no more lines will come; false if a retry began meanwhile.

        A file that was continued, and lacks lines before its last one, is written again.

        Raises:
            UnavailableError: the batch has ended, and the API repeatedly has no more lines.

        """
        await self._look()
        if not self.batch.has_ended:
            return False
        if self._answers.count >= self.batch.total:
            return True
        self._short_responses += 1
        if self._short_responses >= _SHORT_RESPONSES_MAX:
            answers = self._answers
            if answers.is_continued and answers.path is not None:
                if answers.order == "input":
                    return True
                raise RequestError(
                    f"{answers.path} lacks some of its {self.batch.total:,} answers before its "
                    "last line; --overwrite writes all of them.",
                    Code.INVALID_FIELDS,
                )
            raise UnavailableError(
                f"The batch has ended, but the API has only {self._answers.count:,} of its "
                f"{self.batch.total:,} answers."
            )
        return False

    def _is_stopped(self) -> bool:
        batch = self.batch
        if batch.state != "paused":
            self._noted_reason = None
            return False
        sentence = _WAITED_FOR.get(batch.reason or "")
        if sentence is None:
            return batch.counts.open == 0
        if batch.reason != self._noted_reason:
            self._noted_reason = batch.reason
            self._display.note(
                f"{sentence} Ctrl-C leaves it waiting; "
                f"`pollux batch cancel {batch.batch_id}` ends it."
            )
        return False

    async def _look_if_due(self) -> None:
        """Look at the batch during a long response."""
        if self._clock.monotonic() >= self._looked_at + self.batch.poll_interval_hint:
            await self._look()

    async def _look(self) -> None:
        self.batch = await self._api.load(self.batch.batch_id)
        self._looked_at = self._clock.monotonic()
        self._display.show_batch(self.batch)
