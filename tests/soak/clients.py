"""Clients that hold conversations, wait for each end in some published way, and delete them.

Owns the comparison of each answer with its question. A client repeats, under the same
Idempotency-Key, what the front answered with 429 or 503; after a stream that ends early it waits
for the end. Whatever is lost, hangs, or has other words is a finding.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Final

import httpx

from shared import ids
from shared.clock import SystemClock
from tests.support.api_client import NO_TLS, ApiClient, Json
from tests.support.stream_reader import ENDS, following, text_of

LAST_WORD: Final = "done."
_TURNS_MAX: Final = 4
_WAIT_SECONDS: Final = 20
_RETRY_PAUSE_SECONDS: Final = 0.3
_GIVE_UP_SECONDS: Final = 90.0
_RETRIED_STATUSES: Final = {429, 503}
_NAMED_MODEL_SHARE, _BATCH_SHARE, _CANCEL_SHARE, _DELETE_EARLY_SHARE = 0.3, 0.1, 0.04, 0.05


class SoakClients:
    """All clients of a run, and the ends of their messages."""

    def __init__(self, urls: Sequence[str], api_keys: Sequence[str], seed: int) -> None:
        self.findings: list[str] = []
        self.ended: Counter[str] = Counter()
        self.refused: Counter[int] = Counter()
        self.is_over = False
        self.clock = SystemClock()
        self._urls = urls
        self._keys = api_keys
        self._chance = random.Random(seed)
        self._asked = 0

    async def hold_conversations(self, clients: int) -> None:
        """Run this many clients until `is_over`."""
        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(self._client(number, random.Random(self._chance.random())))

    async def _client(self, number: int, chance: random.Random) -> None:
        async with ApiClient(
            base_url=self._urls[number % len(self._urls)],
            headers={"x-api-key": self._keys[number % len(self._keys)]},
            timeout=_WAIT_SECONDS * 2,
            verify=NO_TLS,
            trust_env=False,
        ) as customer:
            soak_client = _SoakClient(self, customer, chance)
            while not self.is_over:
                await soak_client.converse()

    def question(self) -> str:
        """Return a new question."""
        self._asked += 1
        return f"question {self._asked}"

    def judge(self, asked: str, status: Json, *, cancelled: bool) -> None:
        """Compare an end with its question."""
        state, content = status["state"], status["result"]["content"]
        failure = (status["failure"] or {}).get("code")
        self.ended[f"{state}, {failure}" if failure else state] += 1
        whole = content.startswith(f"[{asked}]") and content.endswith(LAST_WORD)
        is_prefix = not content or content.startswith(f"[{asked}]"[: len(content)])
        if not is_prefix or (state == "completed" and not whole):
            self.findings.append(f"{asked!r} was {state} with {content!r}")
        if state == "cancelled" and not cancelled:
            self.findings.append(f"{asked!r} was cancelled by no client")


class _SoakClient:
    """One client."""

    def __init__(
        self, soak_clients: SoakClients, customer: ApiClient, chance: random.Random
    ) -> None:
        self._all = soak_clients
        self._customer = customer
        self._chance = chance

    async def converse(self) -> None:
        """Hold one conversation and delete it."""
        session: str | None = None
        for _ in range(self._chance.randint(1, _TURNS_MAX)):
            asked = self._all.question()
            receipt = await self._send(asked, session)
            session = receipt["session_id"]
            if self._chance.random() < _DELETE_EARLY_SHARE:
                # Deleting the session ends what runs in it.
                break
            cancelled = self._chance.random() < _CANCEL_SHARE
            if cancelled:
                await self._call("POST", receipt["cancel_url"])
            status = await self._wait_for_end(asked, receipt)
            if status is not None:
                self._all.judge(asked, status, cancelled=cancelled)
        await self._call("DELETE", f"/api/v1/chat/conversations/{session}")

    async def _send(self, asked: str, session: str | None) -> Json:
        body: Json = {"message": asked}
        if session is not None:
            body["session_id"] = session
        if self._chance.random() < _NAMED_MODEL_SHARE:
            body["model"] = "alpha"
        if self._chance.random() < _BATCH_SHARE:
            body["priority"] = "batch"
        answer = await self._call("POST", "/api/v1/chat", json=body)
        if answer.status_code != httpx.codes.OK:
            raise AssertionError(answer.text)
        receipt: Json = answer.json()
        return receipt

    async def _wait_for_end(self, asked: str, receipt: Json) -> Json | None:
        """Wait for the end in one of the published ways; return the last status, or None."""
        way = self._chance.choice(("poll", "wait", "stream"))
        followed = await self._follow(receipt) if way == "stream" else None
        wait = None if way == "poll" else _WAIT_SECONDS
        ends = self._all.clock.monotonic() + _GIVE_UP_SECONDS
        while True:
            answer = await self._call("GET", receipt["poll_url"], wait=wait)
            if answer.status_code != httpx.codes.OK:
                self._all.findings.append(f"{asked!r} was lost: {answer.text}")
                return None
            status: Json = answer.json()
            if status["state"] != "processing":
                if followed not in {None, status["result"]["content"]}:
                    self._all.findings.append(f"{asked!r} was followed as {followed!r}")
                return status
            if self._all.clock.monotonic() > ends:
                self._all.findings.append(f"{asked!r} hangs: {status}")
                return None
            if way == "poll":
                await self._all.clock.sleep(status["poll_interval_hint"])

    async def _follow(self, receipt: Json) -> str | None:
        """Return the text of a whole stream; None if the stream ended early."""
        try:
            async with following(self._customer, receipt["events_url"]) as stream:
                received = await stream.rest()
        except (httpx.HTTPError, AssertionError):
            # Redis is away: the front answers 503, or closes a stream that it cannot continue.
            return None
        is_whole = bool(received) and received[-1].name in ENDS
        return text_of(received) if is_whole else None

    async def _call(
        self, method: str, path: str, *, json: Json | None = None, wait: int | None = None
    ) -> httpx.Response:
        """Send, and repeat while the front answers 429 or 503."""
        headers = {"idempotency-key": ids.new_id()}
        parameters = {} if wait is None else {"wait": wait}
        ends = self._all.clock.monotonic() + _GIVE_UP_SECONDS
        while True:
            answer = await self._customer.request(
                method, path, headers=headers, json=json, params=parameters
            )
            is_late = self._all.clock.monotonic() > ends
            if answer.status_code not in _RETRIED_STATUSES or is_late:
                return answer
            self._all.refused[answer.status_code] += 1
            await self._all.clock.sleep(_RETRY_PAUSE_SECONDS)
