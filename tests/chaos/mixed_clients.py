"""Clients of both dialects that call another front with every request, in sessions of their own.

Owns the receipts and ends that they got, and complaints about wrong responses. A client polls,
waits, follows, cuts its stream and resumes it, cancels, repeats a request under its
Idempotency-Key, and reads its session back. Clients of one account delete their sessions; their
messages are not kept as evidence, because nothing of them is left in Redis.
"""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import httpx

from shared import ids
from shared.clock import SystemClock
from shared.lifecycle import ENDS
from tests.chaos.checkouts import CheckoutProcess, CheckoutProcesses
from tests.chaos.evidence import AcceptedMessage, Evidence, ShownEnd, question
from tests.support.api_client import NO_TLS
from tests.support.stream_reader import ReceivedEvent, read_events, text_of

Json = dict[str, Any]

_KOLBO: Final = "/api/v1/chat"
_KOMBIFY: Final = "/v1/ai/chat"
_SHORT_ID: Final = re.compile(r"\d+-\d+")
_RETRIED_STATUSES: Final = {httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE}
_TURNS_MAX: Final = 5
_WAIT_SECONDS: Final = 5
_TIMEOUT_SECONDS: Final = 60.0
_RETRY_PAUSE_SECONDS: Final = 0.2
_GIVE_UP_SECONDS: Final = 90.0
_CUT_BYTES_MAX: Final = 3_000
_CUT_SHARE: Final = 0.6
_KOMBIFY_SHARE: Final = 0.4
_CANCEL_SHARE: Final = 0.06
_BATCH_SHARE: Final = 0.15
_NARROW_MODEL_SHARE: Final = 0.2
_IMPATIENT_SHARE: Final = 0.3
_COMPANION_SHARE: Final = 0.3
# Messages with an option that older versions do not know: only newer workers take these.
_NEWER_SHARE: Final = 0.2
_NEWER_OPTION: Final = {"temperature": 0.5}


class MixedClients:
    """All clients. Those of `deleting_account` delete their sessions.

    While `sends_newer` is set, some messages ask for what only a newer version has; `newer_unsent`
    counts those that no front has answered yet.
    """

    def __init__(
        self,
        fleet: CheckoutProcesses,
        evidence: Evidence,
        api_keys: Mapping[str, str],
        *,
        deleting_account: str,
        seed: int,
    ) -> None:
        self.fleet = fleet
        self.evidence = evidence
        self.deleting_account = deleting_account
        self.clock = SystemClock()
        self.is_over = False
        self.sends_newer = False
        self.newer_unsent = 0
        self.sent = 0
        self.complaints: list[str] = []
        self.seen: Counter[str] = Counter()
        self._keys = api_keys
        self._chance = random.Random(seed)

    async def hold_conversations(self, clients: int) -> None:
        """Run this many clients until `is_over`, and until each has the ends of its messages."""
        self.is_over = False
        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(self._client(number, random.Random(self._chance.random())))

    async def _client(self, number: int, chance: random.Random) -> None:
        account = sorted(self._keys)[number % len(self._keys)]
        headers = {"x-api-key": self._keys[account]}
        async with httpx.AsyncClient(
            headers=headers, timeout=_TIMEOUT_SECONDS, verify=NO_TLS, trust_env=False
        ) as http:
            mixed_client = _MixedClient(self, http, account, chance)
            while not self.is_over:
                await mixed_client.converse()


class _MixedClient:
    """One client."""

    def __init__(
        self,
        all_clients: MixedClients,
        http: httpx.AsyncClient,
        account: str,
        chance: random.Random,
    ) -> None:
        self._all = all_clients
        self._http = http
        self._account = account
        self._chance = chance
        self._session: str | None = None
        self._sent_messages: list[str] = []

    async def converse(self) -> None:
        """Hold one conversation and read it back."""
        self._session, self._sent_messages = None, []
        session = await self._hold_conversation()
        if session is not None:
            await self._read_back(session)

    async def _hold_conversation(self) -> str | None:
        """Send some messages, wait for their ends, and return the session.

        At most two messages are unanswered at a time.
        """
        pending: list[Json] = []
        for _ in range(self._chance.randint(1, _TURNS_MAX)):
            if self._all.is_over:
                break
            if self._chance.random() < _KOMBIFY_SHARE:
                pending += await self._chat()
            else:
                pending.append(await self._submit())
            if self._chance.random() > _IMPATIENT_SHARE or len(pending) > 1:
                await self._wait_for_ends(pending)
        await self._wait_for_ends(pending)
        return self._session

    async def _read_back(self, session: str) -> None:
        """Check that the session has the messages; clients of `deleting_account` then delete it."""
        path = f"/v1/ai/sessions/{session}"
        answer = await self._call("GET", path)
        payload = [each["content"] for each in answer.json()["messages"] if each["role"] == "user"]
        if payload != self._sent_messages:
            self._add_complaint(f"{path} has {payload}, not {self._sent_messages}")
        if self._account == self._all.deleting_account:
            # A front that is killed may have deleted it without a response.
            await self._call("DELETE", path, expected=httpx.codes.NOT_FOUND)
            await self._call("GET", path, expected=httpx.codes.NOT_FOUND)

    # What is sent

    def _body(self) -> tuple[str, Json]:
        self._all.sent += 1
        asked = question(self._account, f"message {self._all.sent}")
        self._sent_messages.append(asked)
        body: Json = {"message": asked}
        if self._session is not None:
            body["session_id"] = self._session
        if self._chance.random() < _BATCH_SHARE:
            body["priority"] = "batch"
        if self._chance.random() < _NARROW_MODEL_SHARE:
            body["model"] = "beta"
        return asked, body

    def _accepted(self, asked: str, payload: Json) -> None:
        """Note an accepted message."""
        self._session = payload["session_id"]
        if self._account != self._all.deleting_account:
            generation = payload.get("message_id") or payload["id"]
            accepted_message = AcceptedMessage(
                self._account, payload["session_id"], generation, asked
            )
            self._all.evidence.accepted_messages.append(accepted_message)

    async def _submit(self) -> Json:
        """Send a message by the Kolbo dialect and return its receipt."""
        asked, body = self._body()
        key = {"idempotency-key": ids.new_id()}
        receipt: Json | None = None
        if self._all.sends_newer and self._chance.random() < _NEWER_SHARE:
            receipt = await self._submit_newer(body | _NEWER_OPTION, key)
        if receipt is None:
            receipt = (await self._call("POST", _KOLBO, body, key)).json()
        else:
            body |= _NEWER_OPTION
        self._accepted(asked, receipt)
        if self._chance.random() < _CUT_SHARE:
            again = (
                await self._call("POST", _KOLBO, body, key, expected=httpx.codes.BAD_REQUEST)
            ).json()
            if again.get("message_id", receipt["message_id"]) != receipt["message_id"]:
                self._add_complaint(f"{asked!r} was accepted again as {again['message_id']}")
        if self._chance.random() < _CANCEL_SHARE:
            await self._cancel(receipt)
        return receipt

    async def _submit_newer(self, body: Json, key: dict[str, str]) -> Json | None:
        """Send what an older front must refuse; return the receipt, or None if one refused it."""
        self._all.newer_unsent += 1
        try:
            answer = await self._call("POST", _KOLBO, body, key, expected=httpx.codes.BAD_REQUEST)
        finally:
            self._all.newer_unsent -= 1
        if answer.status_code == httpx.codes.BAD_REQUEST:
            return None
        self._all.seen["newer option accepted"] += 1
        receipt: Json = answer.json()
        return receipt

    async def _cancel(self, receipt: Json) -> None:
        await self._all.clock.sleep(self._chance.uniform(0, 1))
        answer = await self._call("POST", receipt["cancel_url"], expected=httpx.codes.CONFLICT)
        # A generation that has ended cannot be cancelled.
        if answer.status_code == httpx.codes.OK:
            name, evidence = receipt["message_id"], self._all.evidence
            evidence.cancelled[name] = self._all.clock.now_ms()
            if answer.json()["state"] == "cancelled":
                evidence.cancelled_at_once.add(name)

    async def _chat(self) -> list[Json]:
        """Send a message by the Kombify dialect; return its receipt unless answered at once."""
        asked, body = self._body()
        if self._chance.random() < _COMPANION_SHARE and body.get("model") is None:
            body["companion"] = "work"
        key = {"idempotency-key": ids.new_id()}
        if self._chance.random() < _CUT_SHARE:
            return [await self._chat_by_stream(asked, body | {"stream": True}, key)]
        answer = await self._call("POST", _KOMBIFY, body, key)
        payload: Json = answer.json()
        self._accepted(asked, payload)
        if answer.status_code == httpx.codes.ACCEPTED:
            return [payload]
        self._show(payload["id"], ShownEnd("completed", payload["message"]["content"]))
        return []

    async def _chat_by_stream(self, asked: str, body: Json, key: dict[str, str]) -> Json:
        received: list[ReceivedEvent] = []
        receipt: Json | None = None
        ends = self._all.clock.monotonic() + _GIVE_UP_SECONDS
        while not _has_ended(received) and self._all.clock.monotonic() < ends:
            headers = key | ({"last-event-id": received[-1].id} if received else {})
            received = _joined(received, await self._read("POST", _KOMBIFY, body, headers))
            if receipt is None and received:
                receipt = received[0].payload
                self._accepted(asked, receipt)
        if receipt is None:
            raise AssertionError(f"{asked!r} was never accepted")
        self._check_stream(asked, received)
        return receipt

    # What is received

    async def _wait_for_ends(self, receipts: list[Json]) -> None:
        for receipt in receipts:
            received = await self._follow(receipt) if self._chance.random() < _CUT_SHARE else None
            await self._poll(receipt, received)
        receipts.clear()

    async def _follow(self, receipt: Json) -> list[ReceivedEvent]:
        """Follow a generation to its end, with a new stream after each cut."""
        path = receipt["poll_url"].removesuffix("status") + "events"
        received: list[ReceivedEvent] = []
        ends = self._all.clock.monotonic() + _GIVE_UP_SECONDS
        while not _has_ended(received) and self._all.clock.monotonic() < ends:
            headers = {"last-event-id": received[-1].id} if received else {}
            received = _joined(received, await self._read("GET", path, None, headers))
            malformed_ids = [one.id for one in received if not _SHORT_ID.fullmatch(one.id)]
            if malformed_ids:
                self._add_complaint(f"{path} has the ids {malformed_ids}")
        self._check_stream(path, received)
        return received

    async def _poll(self, receipt: Json, received: list[ReceivedEvent] | None) -> None:
        """Poll until the end, and note it."""
        ends = self._all.clock.monotonic() + _GIVE_UP_SECONDS
        path = receipt["poll_url"]
        while True:
            wait = f"?wait={_WAIT_SECONDS}" if self._chance.random() < _CUT_SHARE else ""
            status = (await self._call("GET", path + wait)).json()
            if status["state"] in ENDS:
                break
            if self._all.clock.monotonic() > ends:
                self._add_complaint(f"{path} hangs: {status}")
                return
            await self._all.clock.sleep(_RETRY_PAUSE_SECONDS)
        content = status["result"]["content"]
        if received is not None and text_of(received) != content:
            self._add_complaint(f"{path} was followed as {text_of(received)!r}, and is {content!r}")
        if status["state"] == "failed":
            self._add_complaint(f"{path} failed: {status['failure']}")
        self._show(receipt.get("message_id") or receipt["id"], ShownEnd(status["state"], content))

    def _show(self, generation: str, shown: ShownEnd) -> None:
        if self._account != self._all.deleting_account:
            self._all.evidence.shown[generation] = shown

    def _check_stream(self, about: str, received: list[ReceivedEvent]) -> None:
        """Complain about a stream without exactly one end, or with ids that do not rise."""
        ends = [one.name for one in received if one.name in ENDS]
        numbers = [_number(one) for one in received]
        if not received or ends != [received[-1].name]:
            self._add_complaint(f"{about}: its ends are {ends}")
        if numbers != sorted(set(numbers)):
            self._add_complaint(f"{about}: its numbers are {numbers}")

    # How requests are sent

    async def _read(
        self, verb: str, path: str, body: object, headers: dict[str, str]
    ) -> list[ReceivedEvent]:
        """Read a stream to its end or to a cut; return the complete events."""
        front = self._all.fleet.choose_front(self._chance)
        cut = (
            self._chance.randint(1, _CUT_BYTES_MAX) if self._chance.random() < _CUT_SHARE else None
        )
        read, url = b"", front.url + path
        try:
            async with self._http.stream(verb, url, json=body, headers=headers) as answer:
                self._count(front, f"{verb} stream")
                if answer.status_code != httpx.codes.OK:
                    await self._refused(front, verb, path, answer)
                    return []
                async for piece in answer.aiter_raw():
                    read += piece
                    if cut is not None and len(read) >= cut:
                        break
        except httpx.TransportError:
            self._count(front, "cut off")
            await self._all.clock.sleep(_RETRY_PAUSE_SECONDS)
        return read_events(read[:cut])

    async def _refused(
        self, front: CheckoutProcess, verb: str, path: str, answer: httpx.Response
    ) -> None:
        """Complain, unless the status is 429 or 503."""
        text = (await answer.aread()).decode()
        self._count(front, f"{answer.status_code}")
        if answer.status_code not in {*_RETRIED_STATUSES, httpx.codes.ACCEPTED}:
            self._add_complaint(
                f"{front.checkout.name}: {verb} {path}: {answer.status_code} {text}"
            )
        await self._all.clock.sleep(_RETRY_PAUSE_SECONDS)

    async def _call(
        self,
        verb: str,
        path: str,
        body: object = None,
        headers: dict[str, str] | None = None,
        *,
        expected: int | None = None,
    ) -> httpx.Response:
        """Call random fronts until one answers other than 429 or 503."""
        ends = self._all.clock.monotonic() + _GIVE_UP_SECONDS
        while True:
            front = self._all.fleet.choose_front(self._chance)
            try:
                answer = await self._http.request(
                    verb, front.url + path, json=body, headers=headers
                )
            except httpx.TransportError:
                self._count(front, "cut off")
            else:
                self._count(front, verb)
                if answer.is_success or answer.status_code == expected:
                    return answer
                await self._refused(front, verb, path, answer)
                if answer.status_code not in _RETRIED_STATUSES:
                    answer.raise_for_status()
            if self._all.clock.monotonic() > ends:
                raise AssertionError(f"{verb} {path} was never answered")
            await self._all.clock.sleep(_RETRY_PAUSE_SECONDS)

    def _count(self, front: CheckoutProcess, what: str) -> None:
        self._all.seen[f"{front.checkout.name} {what}"] += 1

    def _add_complaint(self, text: str) -> None:
        self._all.complaints.append(text)


def _has_ended(received: list[ReceivedEvent]) -> bool:
    return bool(received) and received[-1].name in ENDS


def _number(one: ReceivedEvent) -> tuple[int, ...]:
    """Return the number of an event, also from an id that names the generation."""
    return tuple(int(part) for part in one.id.rpartition(":")[2].split("-"))


def _joined(received: list[ReceivedEvent], more: list[ReceivedEvent]) -> list[ReceivedEvent]:
    """Return all events; those that a front repeats from the start are dropped."""
    last = _number(received[-1]) if received else (-1,)
    return received + [one for one in more if _number(one) > last]
