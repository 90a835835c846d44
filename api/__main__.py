"""Start the API server: read the environment, check Redis, run uvicorn."""

import argparse
import asyncio
import multiprocessing
import os
import signal
import sys
import threading
from contextlib import suppress
from functools import partial
from socket import socket
from typing import Final

import msgspec
import uvicorn
from starlette.types import ASGIApp
from typing_extensions import override
from uvicorn.config import STARTUP_FAILURE
from uvicorn.importer import import_from_string
from uvicorn.supervisors import Multiprocess

from api.app import DIALECTS, build
from api.endpoints import dialect
from api.server.connections import raise_open_files_limit
from api.server.protocol import protocol
from shared import garbage_collection
from shared.clock import SystemClock
from shared.errors import PolluxError
from shared.redis import library, partitions, server_check
from shared.redis.client import Redis
from shared.settings import ApiSettings, Settings
from shared.sighup import Sighup
from shared.telemetry import logs

_SWITCH_SECONDS: Final = 0.0005


def app(admin_port: int | None = None) -> ASGIApp:
    """Return the ASGI application that the environment describes; called once a process."""
    logs.begin()
    settings = Settings.read(os.environ)
    logs.configure(settings.log, process="api")
    garbage_collection.tune()
    # The event loop waits so long at most for a thread that reads a long line of a batch.
    sys.setswitchinterval(_SWITCH_SECONDS)
    _shut_down_with_parent()
    return build(settings, os.environ, SystemClock(), admin_port)


def _shut_down_with_parent() -> None:
    """Shut down as on SIGTERM when the parent process of `--workers` ends, however it ends."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


async def _check_redis(settings: Settings) -> None:
    """Fail once, in one sentence, before any process is started."""
    redis = Redis(settings.redis)
    try:
        await redis.connect()
        await server_check.check(redis, settings.redis)
        await library.load(redis)
        await server_check.check_commands(redis, settings.redis)
        await partitions.register_count(redis, settings.redis, may_raise=True)
    finally:
        await redis.close()


def _warn_without_pepper(settings: Settings) -> None:
    """Warn where API keys are hashed without a secret, and say what that risks."""
    name = settings.auth.pepper_env
    if not os.environ.get(name, "").strip():
        logs.logger().warning(
            "no pepper is set: whoever can write to Redis can make API keys, and whoever can read "
            "it can tell whether a stolen key is good",
            remedy=f"set {name} to a long random text, as of `openssl rand -hex 32`, the same for "
            "every api and for `pollux keys`; keys that were made without it stop working",
        )


class _WorkerProcesses(Multiprocess):
    """The processes of `--workers`; SIGHUP is forwarded to them, and none is restarted for it."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket]) -> None:
        super().__init__(config, sockets)
        self._sighup = Sighup(self._forward_sighup)

    @override
    def handle_hup(self) -> None:
        self._sighup.reload_or_end()

    def _forward_sighup(self) -> None:
        for process in self.processes:
            if process.pid is not None:
                os.kill(process.pid, signal.SIGHUP)


def main() -> int:
    """Serve until a signal; return the process' exit code."""
    logs.begin()
    parser = argparse.ArgumentParser(prog="pollux api", description="Serve Pollux' HTTP API.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--admin-host", default="127.0.0.1", help="address of the operators' API")
    parser.add_argument("--admin-port", type=int, help="its port; without it, no operators' API")
    arguments = parser.parse_args()
    if arguments.admin_port in {0, arguments.port}:
        parser.error("--admin-port must be another port than --port")
    try:
        settings = Settings.read(os.environ)
        logs.configure(settings.log, process="api")
        asyncio.run(_check_redis(settings))
        _warn_without_pepper(settings)
    except PolluxError as error:
        sys.stderr.write(f"pollux api: {error}\n")
        return 1
    api_settings = _fit_open_files(settings.api)
    config = _config(api_settings, arguments, arguments.host, arguments.port)
    sockets = None
    if arguments.admin_port is not None:
        admin = _config(api_settings, arguments, arguments.admin_host, arguments.admin_port)
        sockets = [config.bind_socket(), admin.bind_socket()]
    # As uvicorn.run does, except that SIGHUP is ours.
    with suppress(KeyboardInterrupt):
        if arguments.workers > 1:
            _WorkerProcesses(config, sockets or [config.bind_socket()]).run()
            return 0
        server_process = uvicorn.Server(config)
        server_process.run(sockets)
        return 0 if server_process.started else STARTUP_FAILURE
    return 0


def _fit_open_files(wanted: ApiSettings) -> ApiSettings:
    """Return the API settings, with as many connections as the limit on open files allows."""
    allowed_connections = raise_open_files_limit(wanted.connections_max)
    if allowed_connections < wanted.connections_max:
        logs.logger().warning(
            "fewer connections than api.connections_max: raise the limit on open files",
            connections=allowed_connections,
            connections_max=wanted.connections_max,
        )
    return msgspec.structs.replace(wanted, connections_max=allowed_connections)


def _config(
    api_settings: ApiSettings, arguments: argparse.Namespace, host: str, port: int
) -> uvicorn.Config:
    # By name: under `python -m`, the processes of `--workers` could not import `__main__.app`.
    app_factory = import_from_string("api.__main__:app")
    return uvicorn.Config(
        partial(app_factory, arguments.admin_port),
        factory=True,
        host=host,
        port=port,
        workers=arguments.workers,
        http=protocol(api_settings, arguments.admin_port, dialect.error_shapes(DIALECTS)),
        loop="uvloop",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        # Longer than the longest poll hint, so that a client's next poll finds its connection open.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    sys.exit(main())
