"""The processes of `--workers`: none outlives its parent."""

import contextlib
import signal

import httpx
import pytest

from tests.support import waiting
from tests.support.system import System


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_no_process_outlives_its_parent(system: System, number: signal.Signals) -> None:
    front = await system.spawn_front("--workers", "2")
    async with httpx.AsyncClient(base_url=system.url, trust_env=False) as client:
        assert (await client.get("/healthz")).status_code == 200
    if number is signal.SIGKILL:
        front.kill()
    else:
        front.terminate()
        assert await front.wait_until_ended() == 0

    async def is_refused() -> bool:
        async with httpx.AsyncClient(base_url=system.url, trust_env=False) as fresh:
            with contextlib.suppress(httpx.ReadError, httpx.RemoteProtocolError):
                try:
                    await fresh.get("/healthz")
                except httpx.ConnectError:
                    return True
        return False

    await waiting.until(is_refused, 20, what="the end of the children")
