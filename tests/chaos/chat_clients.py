"""Clients that hold conversations through one front, one after the other, each in one account.

Owns the receipts and ends that they got. Some wait for each answer, some send the next message at
once, some cancel, some use the batch lane. A client behaves as the OpenAPI document says, and
repeats a request that was answered 429 or 503 under the same Idempotency-Key.
"""

import asyncio
import random
import ssl
from collections.abc import Callable
from typing import Any, Final

import httpx

from shared import ids
from shared.clock import SystemClock
from shared.stores.accounts import Accounts
from shared.wire.account import DEFAULT_SCOPES
from tests.chaos.evidence import AcceptedMessage, ShownEnd, question
from tests.chaos.scene import Scene

_CREDITS: Final = 10**12
_TURNS_MAX: Final = 5
_WAIT_SECONDS: Final = 20
_RETRY_PAUSE_SECONDS: Final = 0.3
_GIVE_UP_SECONDS: Final = 60.0
_TRIES_MAX: Final = 100
_RETRIED_STATUSES: Final = {httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE}
_CANCEL_SHARE: Final = 0.03
_BATCH_SHARE: Final = 0.1
_IMPATIENT_SHARE: Final = 0.3
_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

Json = dict[str, Any]


class ChatClients:
    """The clients of a run: they send `wanted` messages, and more while `goes_on` is set.

    `on_accepted` is called with the monotonic time at which each accepted message was sent.
    """

    def __init__(self, scene: Scene, url: str, *, wanted: int, clients: int, seed: int) -> None:
        self._scene = scene
        self._url = url
        self._wanted = wanted
        self._clients = clients
        self._chance = random.Random(seed)
        self.clock = SystemClock()
        self._keys: dict[str, str] = {}
        self.sent = 0
        self.goes_on = True
        self.on_accepted: Callable[[float], None] = lambda _: None

    @property
    def is_done(self) -> bool:
        """Whether enough messages were sent."""
        return self.sent >= self._wanted and not self.goes_on

    async def open(self, names: tuple[str, ...]) -> None:
        """Create the accounts, each with a key and more credits than it can spend."""
        redis = self._scene.settings.redis
        accounts = Accounts(self._scene.redis, redis, b"", self.clock)
        for name in names:
            account = await accounts.create(name, "enterprise")
            await accounts.grant(account, _CREDITS)
            self._keys[name] = (await accounts.create_key(account, DEFAULT_SCOPES)).key
            self._scene.evidence.granted[name] = _CREDITS

    async def hold_conversations(self) -> None:
        """Run all clients until enough messages were sent and answered."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._clients):
                group.create_task(self._client(random.Random(self._chance.random())))

    async def _client(self, chance: random.Random) -> None:
        account = chance.choice(list(self._keys))
        async with httpx.AsyncClient(
            base_url=self._url,
            headers={"x-api-key": self._keys[account]},
            timeout=_WAIT_SECONDS * 2,
            verify=_NO_TLS,
            trust_env=False,
        ) as client:
            chat_client = ChatClient(self, client, account, chance)
            while not self.is_done:
                await chat_client.converse()

    async def post(
        self, client: httpx.AsyncClient, path: str, body: Json | None = None
    ) -> httpx.Response:
        """Send, and repeat while the front answers 429 or 503."""
        headers = {"idempotency-key": ids.new_id()}
        sent_at = self.clock.monotonic()
        answer = await client.post(path, json=body, headers=headers)
        for _ in range(_TRIES_MAX):
            if answer.status_code not in _RETRIED_STATUSES:
                break
            await self.clock.sleep(_RETRY_PAUSE_SECONDS)
            sent_at = self.clock.monotonic()
            answer = await client.post(path, json=body, headers=headers)
        if body is not None and answer.status_code == httpx.codes.OK:
            self.on_accepted(sent_at)
        return answer

    async def pause(self, seconds: float) -> None:
        """Sleep."""
        await self.clock.sleep(seconds)

    def note_accepted(self, accepted_message: AcceptedMessage) -> None:
        """Note an accepted message."""
        self._scene.evidence.accepted_messages.append(accepted_message)

    def note_cancel(self, generation: str, *, is_over: bool) -> None:
        """Note the time of a confirmed cancel; Redis uses this machine's clock."""
        self._scene.evidence.cancelled[generation] = self.clock.now_ms()
        if is_over:
            self._scene.evidence.cancelled_at_once.add(generation)

    def note_end(self, generation: str, shown: ShownEnd) -> None:
        """Note the end that a client was shown."""
        self._scene.evidence.shown[generation] = shown


class ChatClient:
    """One client."""

    def __init__(
        self,
        chat_clients: ChatClients,
        client: httpx.AsyncClient,
        account: str,
        chance: random.Random,
    ) -> None:
        self._all = chat_clients
        self._client = client
        self._account = account
        self._chance = chance

    async def converse(self) -> None:
        """Hold one conversation with at most two unanswered messages."""
        session: str | None = None
        receipts: list[Json] = []
        for _ in range(self._chance.randint(1, _TURNS_MAX)):
            if self._all.is_done:
                break
            receipts.append(await self._send_message(session))
            session = receipts[-1]["session_id"]
            if self._chance.random() < _CANCEL_SHARE:
                await self._cancel(receipts[-1])
            if self._chance.random() > _IMPATIENT_SHARE or len(receipts) > 1:
                await self._wait_for_ends(receipts)
        await self._wait_for_ends(receipts)

    async def _send_message(self, session: str | None) -> Json:
        self._all.sent += 1
        asked = question(self._account, f"message {self._all.sent}")
        body: Json = {"message": asked}
        if session is not None:
            body["session_id"] = session
        if self._chance.random() < _BATCH_SHARE:
            body["priority"] = "batch"
        answer = await self._all.post(self._client, "/api/v1/chat", body)
        assert answer.status_code == httpx.codes.OK, answer.text
        receipt: Json = answer.json()
        accepted_message = AcceptedMessage(
            self._account, receipt["session_id"], receipt["message_id"], asked
        )
        self._all.note_accepted(accepted_message)
        return receipt

    async def _cancel(self, receipt: Json) -> None:
        await self._all.pause(self._chance.uniform(0, 1))
        answer = await self._all.post(self._client, receipt["cancel_url"])
        # A generation that has ended cannot be cancelled.
        if answer.status_code == httpx.codes.OK:
            is_over = answer.json()["state"] == "cancelled"
            self._all.note_cancel(receipt["message_id"], is_over=is_over)

    async def _wait_for_ends(self, receipts: list[Json]) -> None:
        """Wait for the end of each and note it; stop waiting after `_GIVE_UP_SECONDS`."""
        for receipt in receipts:
            ends = self._all.clock.monotonic() + _GIVE_UP_SECONDS
            while (status := await self._poll(receipt["poll_url"]))["state"] == "processing":
                if self._all.clock.monotonic() > ends:
                    break
            else:
                self._record_end(receipt, status)
        receipts.clear()

    def _record_end(self, receipt: Json, status: Json) -> None:
        shown = ShownEnd(status["state"], status["result"]["content"])
        self._all.note_end(receipt["message_id"], shown)

    async def _poll(self, path: str) -> Json:
        answer = await self._client.get(path, params={"wait": _WAIT_SECONDS})
        if answer.status_code != httpx.codes.OK:
            await self._all.pause(_RETRY_PAUSE_SECONDS)
            return {"state": "processing"}
        decoded: Json = answer.json()
        return decoded
