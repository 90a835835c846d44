"""The connection on which a worker receives cancels, and whether it is lost.

Owns the subscription to the worker's own channel. Refuses to stop attempts itself: `on_cancel`
does. While the connection is lost no cancel can arrive, so `on_change` has the worker claim nothing
and announce the loss with its heartbeat.
"""

from collections.abc import Callable
from typing import Any

from typing_extensions import override

from shared.redis import keys
from shared.redis.client import Redis, Reply
from shared.settings import RedisSettings
from shared.telemetry import logs


class Listener(Redis):
    """One worker's subscription. `on_cancel` gets the account and the id of a generation."""

    def __init__(
        self,
        settings: RedisSettings,
        worker: str,
        *,
        on_cancel: Callable[[str, str], None],
        on_change: Callable[[], None],
    ) -> None:
        super().__init__(settings, on_push=self._receive, on_ready=self._subscribe)
        self.is_lost = False
        self._channel = keys.worker_channel(keys.system_root(settings), worker)
        self._on_cancel = on_cancel
        self._on_change = on_change

    @override
    def _on_lost_protocol(self, protocol: Any) -> None:
        super()._on_lost_protocol(protocol)
        if not self._closed:
            self._note(is_lost=True)

    def _subscribe(self) -> None:
        self.listen("SUBSCRIBE", self._channel)

    def _receive(self, push: list[Reply]) -> None:
        if push[0] == b"subscribe":
            self._note(is_lost=False)
        elif push[0] == b"message":
            account, _, generation = push[2].decode().partition(":")
            self._on_cancel(account, generation)

    def _note(self, *, is_lost: bool) -> None:
        if is_lost != self.is_lost:
            self.is_lost = is_lost
            logs.logger().warning("the listener is away" if is_lost else "the listener is back")
        self._on_change()
