"""Another tenant that keeps working during an attack: a program, and the function that runs it.

An enterprise account submits twenty short messages a second and polls every fourth of them: far
below its limits. Prints how long each request took, and its status. It is a process of its own, so
that it does not share an event loop with the attacker.
"""

import asyncio
import contextlib
import http.client
import json
import select
import sys
import time
from collections import Counter
from collections.abc import Awaitable
from typing import Final, NamedTuple, TypeVar

from tests.attacks import bounds
from tests.attacks.target import ROOT, Target
from tests.bench import figures
from tests.bench.figures import Figure

Result = TypeVar("Result")

_PAUSE_SECONDS: Final = 0.05
_POLL_EVERY: Final = 4
_TIMEOUT_SECONDS: Final = 10.0
_READY: Final = b"ready\n"


class TenantReport(NamedTuple):
    """The tenant's requests: their times in ms, and how many were not answered with 200."""

    p50_ms: float
    p99_ms: float
    requests: int
    refused: int
    statuses: dict[str, int]

    def figure(self) -> Figure:
        """Return the line of the table."""
        found = f"p50 {self.p50_ms:.1f} ms, p99 {self.p99_ms:.1f} ms"
        refused = ", ".join(f"{count} x {name}" for name, count in sorted(self.statuses.items()))
        bound = f"p99 <= {bounds.OTHERS_P99_MS:g} ms, {bounds.OTHERS_REFUSED} refused"
        is_met = self.p99_ms <= bounds.OTHERS_P99_MS and self.refused <= bounds.OTHERS_REFUSED
        name, statuses = "  another tenant", f"{self.requests} requests: {refused}"
        return Figure(name, found, statuses, bound, is_met)


async def run_beside(target: Target, attack: Awaitable[Result]) -> tuple[Result, TenantReport]:
    """Run the tenant for as long as an attack takes; return the results of both."""
    key = await target.key("tenant", "enterprise")
    words = ("-m", "tests.attacks.other_tenant", str(target.port), key.key)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, cwd=ROOT, stdin=pipe, stdout=pipe
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == _READY
        found = await attack
        output, _ = await process.communicate(b"")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return found, summarize(json.loads(output))


def summarize(requests: list[tuple[float, str]]) -> TenantReport:
    """Summarize requests, each given by its seconds and its status."""
    took = [seconds * 1000 for seconds, _ in requests]
    statuses = Counter(status for _, status in requests)
    refused = sum(count for status, count in statuses.items() if status != "200")
    p50, p99 = figures.quantile(took, 0.5), figures.quantile(took, 0.99)
    return TenantReport(p50, p99, len(took), refused, dict(statuses))


def main() -> None:
    """Work until standard input ends, then print the seconds and status of each request."""
    port, key = int(sys.argv[1]), sys.argv[2]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
    headers = {"x-api-key": key, "content-type": "application/json"}
    found: list[tuple[float, str]] = []
    receipt: dict[str, str] = {}
    body = json.dumps({"message": "hi [tokens=2]"})
    _ask(connection, "POST", "/api/v1/chat", headers, body)
    sys.stdout.buffer.write(_READY)
    sys.stdout.flush()
    while not select.select([sys.stdin], [], [], _PAUSE_SECONDS)[0]:
        took, status, receipt = _ask(connection, "POST", "/api/v1/chat", headers, body)
        found.append((took, status))
        if len(found) % (_POLL_EVERY + 1) == _POLL_EVERY and "poll_url" in receipt:
            took, status, _ = _ask(connection, "GET", receipt["poll_url"], headers, None)
            found.append((took, status))
    sys.stdout.write(json.dumps(found))


def _ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    headers: dict[str, str],
    body: str | None,
) -> tuple[float, str, dict[str, str]]:
    """Return the seconds of a request, its status or error, and the decoded response."""
    began, status, answer = time.perf_counter(), "", {}
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        read, status = response.read(), str(response.status)
        with contextlib.suppress(ValueError):
            answer = json.loads(read)
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        status = type(error).__name__
    return time.perf_counter() - began, status, answer


if __name__ == "__main__":
    main()
