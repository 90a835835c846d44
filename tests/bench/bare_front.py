"""The baseline of `front`: bare uvicorn, one Starlette route, one Redis call a request.

`POST /submit` makes one FCALL that writes what `accept` writes, under a new id and with fixed
contents, and answers with the size of a receipt; `GET /status` reads one hash of a generation's
size and answers with the size of a status. Nothing is checked, parsed, limited or logged. The Redis
connection is the front's own, which sends the calls of a tick together: a slower baseline would
make the front look better than it is.
"""

import argparse
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared.redis.client import Redis
from shared.settings import RedisSettings

# The writes of accept.lua for the first message of a session.
LIBRARY: Final = """#!lua name=floor
redis.register_function('floor_accept', function(keys, arguments)
  local root, id, turn, submission = keys[1], arguments[1], arguments[2], arguments[3]
  local c, now = redis.call, 1790000000000
  c('SET', root .. 'submissions:bench', now * 1000, 'PX', 61000)
  c('HINCRBY', root .. 'books:bench', 'balance', -30000)
  c('HINCRBY', root .. 'books:bench', 'held', 30000)
  c('ZADD', root .. 'sessions:bench', now, id)
  c('HSET', root .. 'session:bench:' .. id, 'name', 'API Chat - 2026-01-01',
    'created', now, 'active', now, 'turns', 1, 'head', id)
  local number = c('HINCRBY', root .. 'clocks', 'number', 1)
  c('HSET', root .. 'turns:bench:' .. id .. ':0', '1:u', turn)
  c('SET', root .. 'submission:bench:' .. id, submission)
  c('HSET', root .. 'generation:bench:' .. id, 'stage', 'queued', 'session', id, 'turn', 1,
    'lane', 'interactive', 'model', 'auto', 'wire', 1, 'number', number, 'accepted', now,
    'deadline', now + 900000, 'hold', 30000, 'attempt', 0)
  c('ZADD', root .. 'deadlines', now, 'bench:' .. id)
  c('ZADD', root .. 'unfinished:bench:interactive', number, id)
  c('ZADD', root .. 'ready:bench:interactive', number, id)
  return 'OK'
end)
"""
ROOT: Final = "floor:{p00}:"
_GENERATION: Final = {
    "stage": "generating",
    "session": "0" * 22,
    "turn": "1",
    "lane": "interactive",
    "model": "auto",
    "wire": "1",
    "number": "1",
    "accepted": "1790000000000",
    "deadline": "1790000000000",
    "hold": "30000",
    "attempt": "1",
    "worker": "0" * 22,
    "started": "1790000000000",
    "seq": "3",
    "progress": "10",
    "text": "word " * 40,
}
_TURN: Final = b"t" * 200
_SUBMISSION: Final = b"s" * 100
_RECEIPT: Final = b'{"success":true,"message_id":"%s"}' + b" " * 300
_STATUS: Final = b'{"success":true,"state":"processing"}' + b" " * 900


def build(url: str) -> Starlette:
    """Return the application."""
    client = Redis(RedisSettings(url=url))
    numbers = itertools.count()

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await client.call("FUNCTION", "LOAD", "REPLACE", LIBRARY)
        fields = itertools.chain.from_iterable(_GENERATION.items())
        await client.call("HSET", f"{ROOT}generation:bench:one", *fields)
        yield
        await client.close()

    async def submit(request: Request) -> Response:
        await request.body()
        name = f"{next(numbers):022d}"
        await client.call("FCALL", "floor_accept", 1, ROOT, name, _TURN, _SUBMISSION)
        return Response(_RECEIPT, media_type="application/json")

    async def status(_request: Request) -> Response:
        await client.call("HGETALL", f"{ROOT}generation:bench:one")
        return Response(_STATUS, media_type="application/json")

    routes = [Route("/submit", submit, methods=["POST"]), Route("/status", status)]
    return Starlette(routes=routes, lifespan=lifespan)


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--redis", required=True)
    arguments = parser.parse_args()
    uvicorn.run(
        build(arguments.redis),
        port=arguments.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
