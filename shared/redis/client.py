"""One connection to Redis for many callers.

Owns the socket: commands that concurrent tasks send in one tick of the event loop leave in few
writes, and replies are matched to callers by order. Does not know what commands mean, and repeats
one only where the caller says that this is safe.

DESIGN. redis-py spends 70 to 110 us of CPU on a command (a pool checkout, several task switches); a
shared connection takes about a tenth of that. A cancelled caller keeps its place in the order of
replies, marked as done, so that nobody receives another caller's reply. Any fault of the connection
(closed, silent beyond the timeout, bytes that are not RESP, a server that became a replica) closes
it and fails all pending calls; the next call opens a new one. A call that is repeated on a new
connection still ends within `connect_seconds` plus one `timeout_seconds`.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, cast

import hiredis
import redis.exceptions
from typing_extensions import override

from shared.errors import NotNowError, StoreError, UnavailableError, WrongTypeError
from shared.redis import dsn, keys
from shared.redis.dsn import Dsn
from shared.redis.outage import Outage, error_of, with_key_name
from shared.settings import RedisSettings
from shared.telemetry import logs

# Raised by redis-py's own client, which arq uses.
RedisError = redis.exceptions.RedisError
Reply = Any
Argument = str | bytes | int | float

# The stub of hiredis wants a tuple of exactly one.
_pack: Final = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)
_INCOMPLETE: Final = object()
# A write costs a few us; letting the server idle until the end of a long tick costs more.
_COMMANDS_PER_WRITE: Final = 8
# Between two attempts to connect, however many callers wait for the server.
_DIAL_PAUSE_SECONDS: Final = 0.05
# Pauses between attempts to reconnect a listener: a worker whose listener is away for longer than
# its leases last is declared dead.
_RECONNECT_SECONDS: Final = (0.05, 0.4)


class Connection(Protocol):
    """What the rest of Pollux may do with Redis."""

    async def call(self, *command: Argument, repeat: bool = True) -> Reply:
        """Send a command and return its reply; see `Redis.call`."""

    def send(self, *command: Argument) -> None:
        """Send a command whose reply nobody needs."""


class _RedisProtocol(asyncio.Protocol):
    """The bytes of one connection: commands out in batches, replies in by order."""

    def __init__(
        self,
        on_push: Callable[[list[Reply]], None] | None,
        on_lost: "Callable[[_RedisProtocol], None]",
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._waiting: deque[asyncio.Future[Reply] | None] = deque()
        self._out: list[bytes] = []
        self._on_push = on_push
        self._on_lost = on_lost
        self._received_at = self._loop.time()
        self._transport: asyncio.Transport | None = None
        self.alive = False
        self.id: int | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.alive = True

    def request(self, command: tuple[Argument, ...]) -> asyncio.Future[Reply]:
        if not self.alive:
            # Lost since it was opened: nobody would fail a call that waits on it now.
            raise _LostError
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._write(command, future)
        return future

    def send_command(self, command: tuple[Argument, ...], *, has_reply: bool) -> None:
        """Send without waiting; `has_reply` is false if the reply is a push (SUBSCRIBE)."""
        if has_reply:
            self._write(command, None)
        else:
            self._buffer(command)

    def _write(self, command: tuple[Argument, ...], future: asyncio.Future[Reply] | None) -> None:
        if not self._waiting:
            self._received_at = self._loop.time()
        self._waiting.append(future)
        self._buffer(command)

    def _buffer(self, command: tuple[Argument, ...]) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(_pack(command))
        if len(self._out) == _COMMANDS_PER_WRITE:
            self._flush()

    def _flush(self) -> None:
        if self._out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()

    @override
    def data_received(self, data: bytes) -> None:
        self._received_at = self._loop.time()
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                if not self._deliver(reply):
                    unexpected = (
                        str(reply) if isinstance(reply, hiredis.ReplyError) else type(reply)
                    )
                    logs.logger().warning("Redis sent an unexpected reply", reply=str(unexpected))
                    self.abort()
                    return
        except hiredis.ProtocolError:
            self.abort()

    def _deliver(self, reply: Reply) -> bool:
        """Pass a reply to its caller; False if it has none, as that of a refused subscription."""
        if isinstance(reply, hiredis.PushNotification):
            if self._on_push is not None:
                self._on_push(reply)
            return True
        if not self._waiting:
            return False
        future = self._waiting.popleft()
        is_error = isinstance(reply, hiredis.ReplyError)
        if is_error and str(reply).startswith("READONLY"):
            # The server is no longer the master; the name in the URL may lead to a new one by now.
            self._loop.call_soon(self.abort)
        if future is not None and not future.done():
            if is_error:
                future.set_exception(error_of(str(reply)))
            else:
                future.set_result(reply)
        return True

    @override
    def connection_lost(self, _exc: Exception | None) -> None:
        self.alive = False
        while self._waiting:
            future = self._waiting.popleft()
            if future is not None and not future.done():
                future.set_exception(_LostError())
        self._on_lost(self)

    def idle_seconds(self) -> float:
        """Return for how long nothing was received."""
        return self._loop.time() - self._received_at

    def unanswered_seconds(self) -> float:
        """Return for how long a pending call has received nothing; 0 when none is pending."""
        return self.idle_seconds() if self._waiting else 0.0

    def abort(self) -> None:
        self.alive = False
        if self._transport is not None:
            self._transport.abort()


class _LostError(Exception):
    """The connection was lost while a reply was due: the command may or may not have run."""


class Redis:
    """A connection that reconnects. `on_push` receives pub/sub, `on_ready` runs at each connect.

    Raises (every call):
        UnavailableError: no connection, no reply in time, or a server that cannot serve now.
        StoreError: an error reply that our code does not expect.

    """

    def __init__(
        self,
        settings: RedisSettings,
        *,
        on_push: Callable[[list[Reply]], None] | None = None,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        self._settings = settings
        self._on_push = on_push
        self._on_ready = on_ready
        self._protocol: _RedisProtocol | None = None
        self._opening: asyncio.Task[_RedisProtocol] | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._silence_timer: asyncio.TimerHandle | None = None
        self._dial_at = 0.0
        self._opened_at = 0.0
        self._reconnect_seconds = 0.0
        self._closed = False
        self._outage = Outage()

    async def call(self, *command: Argument, repeat: bool = True) -> Reply:
        """Send a command and return its reply.

        `repeat`: whether the command may be sent a second time if the connection is lost before the
        reply: true for our functions and every read, false for a push or an increment.
        """
        began = asyncio.get_running_loop().time()
        protocol = (
            self._protocol
            if self._protocol is not None and self._protocol.alive
            else await self._open()
        )
        try:
            return await protocol.request(command)
        except NotNowError as error:
            raise self._outage.with_retry_after(error) from None
        except WrongTypeError as error:
            raise with_key_name(error, command) from None
        except _LostError:
            if not repeat:
                raise self._unavailable("The connection to Redis was lost.") from None
        time_limit_seconds = self._settings.connect_seconds + self._settings.timeout_seconds
        try:
            async with asyncio.timeout_at(began + time_limit_seconds):
                return await (await self._open()).request(command)
        except _LostError:
            raise self._unavailable("The connection to Redis was lost twice.") from None
        except TimeoutError:
            raise self._unavailable("Redis did not answer in time.") from None

    def request(self, *command: Argument) -> asyncio.Future[Reply]:
        """Send a command once, and return the future of its reply.

        It costs a tenth of a task that awaits `call`, for callers that repeat by `call` what fails
        here, for whatever reason: without a connection this fails at once.
        """
        if self._protocol is not None and self._protocol.alive:
            return self._protocol.request(command)
        failed: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        failed.set_exception(_LostError())
        return failed

    async def pipeline(self, *commands: tuple[Argument, ...]) -> list[Reply]:
        """Send commands in one write and return their replies; nothing is sent a second time."""
        protocol = (
            self._protocol
            if self._protocol is not None and self._protocol.alive
            else await self._open()
        )
        try:
            return await asyncio.gather(*(protocol.request(command) for command in commands))
        except NotNowError as error:
            raise self._outage.with_retry_after(error) from None
        except _LostError:
            raise self._unavailable("The connection to Redis was lost.") from None

    def _unavailable(self, message: str) -> UnavailableError:
        return self._outage.with_retry_after(UnavailableError(message))

    def send(self, *command: Argument) -> None:
        """Send a command whose reply nobody needs; without a connection it is dropped."""
        if self._protocol is not None and self._protocol.alive:
            self._protocol.send_command(command, has_reply=True)

    def listen(self, verb: str, channel: str) -> None:
        """Send SUBSCRIBE or UNSUBSCRIBE; without a connection, `on_ready` must do it later."""
        if self._protocol is not None and self._protocol.alive:
            self._protocol.send_command((verb, channel), has_reply=False)

    @property
    def id(self) -> int | None:
        """The server's number for this connection, by which another connection can unblock it."""
        return self._protocol.id if self._protocol is not None and self._protocol.alive else None

    async def connect(self) -> None:
        """Connect now, to fail early."""
        await self._open()

    async def close(self) -> None:
        """Close the connection; pending calls fail."""
        self._closed = True
        if self._silence_timer is not None:
            self._silence_timer.cancel()
        for task in (self._opening, self._reconnecting):
            if task is not None:
                task.cancel()
        if self._protocol is not None:
            self._protocol.abort()
            await asyncio.sleep(0)

    async def _open(self) -> _RedisProtocol:
        """Join the running attempt to connect, or start one."""
        if self._protocol is not None and self._protocol.alive:
            return self._protocol
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._dial())
            self._opening.add_done_callback(_consume_outcome)
        return await asyncio.shield(self._opening)

    async def _dial(self) -> _RedisProtocol:
        if self._closed:
            raise UnavailableError("The connection to Redis is closed.")
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._dial_at - loop.time()))
        try:
            protocol = await self._connect()
        except UnavailableError as error:
            self._outage.begin()
            raise self._outage.with_retry_after(error) from None
        finally:
            self._dial_at = loop.time() + _DIAL_PAUSE_SECONDS
        self._protocol, self._opened_at = protocol, loop.time()
        self._outage.end()
        self._check_silence()
        if self._on_ready is not None:
            self._on_ready()
        return protocol

    async def _connect(self) -> _RedisProtocol:
        try:
            async with asyncio.timeout(self._settings.connect_seconds):
                protocol = await _connect(self._settings.url, self._on_push, self._on_lost_protocol)
        except (OSError, UnicodeError, _LostError) as error:
            why = str(error) or type(error).__name__
            raise UnavailableError(f"Redis cannot be reached: {why}") from None
        if not protocol.alive:
            raise UnavailableError("The connection to Redis was lost.")
        return protocol

    def _on_lost_protocol(self, protocol: _RedisProtocol) -> None:
        """Reconnect a listener at once, since no call of its own would."""
        if protocol is self._protocol:
            self._outage.begin()
        if protocol is self._protocol and self._on_push is not None and not self._closed:
            self._reconnecting = asyncio.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        """Connect at once, then less often; also where each new connection is lost again."""
        low, high = _RECONNECT_SECONDS
        if asyncio.get_running_loop().time() - self._opened_at > high:
            self._reconnect_seconds = 0.0
        while not self._closed:
            await asyncio.sleep(self._reconnect_seconds)
            self._reconnect_seconds = min(max(low, self._reconnect_seconds * 2), high)
            try:
                await self._open()
            except UnavailableError:
                continue
            except Exception:  # noqa: BLE001  a worker without a listener counts as dead, whatever the reason
                logs.logger().exception("a listener could not reconnect")
                continue
            return

    def _check_silence(self) -> None:
        """Close the connection after a silence beyond the timeout: one timer for all calls."""
        timeout = self._settings.timeout_seconds
        if self._silence_timer is not None:
            self._silence_timer.cancel()
        if self._protocol is None or not self._protocol.alive or self._closed:
            return
        left = timeout - self._protocol.unanswered_seconds()
        if left <= 0:
            logs.logger().warning("Redis fell silent", seconds=timeout)
            self._protocol.abort()
            return
        if self._on_push is not None and self._protocol.idle_seconds() > timeout / 2:
            # A listener sends no commands: this write shows that the server is there, and is no
            # replica.
            mark = keys.REPLICATION_MARK(keys.system_root(self._settings))
            self._protocol.send_command(("UNLINK", mark), has_reply=True)
        # Check again no later than the oldest pending call times out.
        seconds = min(left, timeout / 4)
        self._silence_timer = asyncio.get_running_loop().call_later(seconds, self._check_silence)


def _consume_outcome(opening: asyncio.Task[_RedisProtocol]) -> None:
    """Retrieve the outcome of an attempt whose waiters may all have been cancelled."""
    if not opening.cancelled():
        opening.exception()


async def _connect(
    url: str,
    on_push: Callable[[list[Reply]], None] | None,
    on_lost: Callable[[_RedisProtocol], None],
) -> _RedisProtocol:
    """Open the socket and shake hands: RESP3, credentials, database."""
    where = dsn.parse(url)
    loop = asyncio.get_running_loop()

    def factory() -> _RedisProtocol:
        return _RedisProtocol(on_push, on_lost)

    opening: Awaitable[tuple[asyncio.Transport, _RedisProtocol]]
    if where.path is not None:
        opening = loop.create_unix_connection(factory, where.path)
    else:
        secure = ssl.create_default_context() if where.is_secure else None
        opening = loop.create_connection(factory, where.host, where.port, ssl=secure)
    _, protocol = await opening
    try:
        await _handshake(protocol, where)
    except BaseException:
        protocol.abort()
        raise
    return protocol


async def _handshake(protocol: _RedisProtocol, where: Dsn) -> None:
    hello: list[Argument] = ["HELLO", 3]
    if where.password:
        hello += ["AUTH", where.username or "default", where.password]
    try:
        greeting = await protocol.request((*hello, "SETNAME", "pollux"))
        protocol.id = greeting[b"id"]
        if where.database:
            await protocol.request(("SELECT", where.database))
    except StoreError as error:
        raise UnavailableError(f"Redis refuses the connection: {error.message}") from None
