"""Start the front: read the environment, build the settings, run uvicorn."""

import argparse
import asyncio
import gc
import os
import sys

import uvicorn
from starlette.types import ASGIApp

from api.app import build
from api.edge import protocol
from shared.clock import SystemClock
from shared.errors import PolluxError
from shared.redis import library, server
from shared.redis.client import Redis
from shared.settings import Settings
from shared.telemetry import logs


def app() -> ASGIApp:
    """Return the front as the environment describes it; each process of `--workers` calls it."""
    settings = Settings.read(os.environ)
    logs.configure(settings.log, process="api")
    # What is there now stays; the collector need not look at it again and again.
    gc.freeze()
    return build(settings, os.environ, SystemClock())


async def _check(settings: Settings) -> None:
    """Fail here, in one sentence, rather than in every process."""
    redis = Redis(settings.redis)
    try:
        await redis.connect()
        await server.check(redis, settings.redis)
        await library.load(redis)
    finally:
        await redis.close()


def main() -> int:
    """Serve until a signal; return the process' exit code."""
    parser = argparse.ArgumentParser(prog="pollux api", description="Serve Pollux' HTTP API.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    arguments = parser.parse_args()
    try:
        settings = Settings.read(os.environ)
        asyncio.run(_check(settings))
    except PolluxError as error:
        sys.stderr.write(f"pollux api: {error}\n")
        return 1
    uvicorn.run(
        "api.__main__:app",
        factory=True,
        host=arguments.host,
        port=arguments.port,
        workers=arguments.workers,
        http=protocol(settings.api),
        loop="uvloop",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        # Longer than the longest poll hint, so that a client's next poll finds its connection open.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
