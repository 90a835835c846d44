"""The peer of `pickup`: stock arq that does only what a Pollux worker does for an answer.

`front` is a Starlette route that enqueues a job; `worker` is arq's own Worker with its defaults,
whose job calls the scripted upstream and reads its answer to the end.
"""

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import uvicorn
from arq.connections import RedisSettings, create_pool
from arq.worker import Worker
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

_CLIENT: Final = "client"


async def ask(ctx: dict[str, Any], upstream: str, message: str) -> str:
    """Call the upstream and return its whole response."""
    body = {
        "model": "scripted",
        "messages": [{"role": "user", "content": message}],
        "max_tokens": 2048,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    client: httpx.AsyncClient = ctx[_CLIENT]
    async with client.stream("POST", f"{upstream}/chat/completions", json=body) as response:
        return (await response.aread()).decode()


async def _open(ctx: dict[str, Any]) -> None:
    ctx[_CLIENT] = httpx.AsyncClient(trust_env=False)


async def _close(ctx: dict[str, Any]) -> None:
    await ctx[_CLIENT].aclose()


def work(url: str) -> None:
    """Run arq's worker until a signal."""
    settings = RedisSettings.from_dsn(url)
    Worker([ask], redis_settings=settings, on_startup=_open, on_shutdown=_close).run()


def serve(url: str, port: int, upstream: str) -> None:
    """Serve the route that enqueues until a signal."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, Any]]:
        pool = await create_pool(RedisSettings.from_dsn(url))
        yield {"pool": pool}
        await pool.aclose()

    async def submit(request: Request) -> JSONResponse:
        message = (await request.json())["message"]
        job = await request.state.pool.enqueue_job("ask", upstream, message)
        return JSONResponse({"success": True, "id": job.job_id})

    async def ready(_request: Request) -> JSONResponse:
        return JSONResponse({})

    routes = [Route("/submit", submit, methods=["POST"]), Route("/readyz", ready)]
    app = Starlette(routes=routes, lifespan=lifespan)
    uvicorn.run(app, port=port, loop="uvloop", http="httptools", ws="none", access_log=False)


def main() -> None:
    """Run a front or a worker."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("front", "worker"))
    parser.add_argument("--redis", required=True)
    parser.add_argument("--port", type=int)
    parser.add_argument("--upstream")
    arguments = parser.parse_args()
    if arguments.role == "worker":
        work(arguments.redis)
    else:
        serve(arguments.redis, arguments.port, arguments.upstream)


if __name__ == "__main__":
    main()
