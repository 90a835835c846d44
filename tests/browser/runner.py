"""The page in Chromium against a whole deployment, from an allowed origin and from another one.

Owns the deployment, the browser's process and its profile, and what the page must report.
"""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Final, NamedTuple

from shared.settings import RedisSettings
from tests.browser.site import Report, site
from tests.support.redis_server import Server
from tests.support.scripted_provider import ScriptedProvider
from tests.support.system import System

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_FLAGS: Final = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--disable-extensions", "--no-default-browser-check"),
)
_GIVE_UP_SECONDS: Final = 60.0
# Slow enough that the page disconnects in the middle; with characters of two and four bytes.
_MESSAGE: Final = "Grüße 🚀 [tokens=12 gap=0.1]"


class PageReport(NamedTuple):
    """What the page reported from each origin, and the number of upstream calls."""

    page: Report
    other_origin: Report
    calls: int

    def faults(self) -> list[str]:
        """Return what differs from what it must be."""
        page = self.page
        answer = page.get("status", ["", ""])[1]
        wanted = {
            "submit": [200, "from-a-page", True],
            "follow": [200, "text/event-stream; charset=utf-8"],
            "resume": ["completed", answer],
            "status": [200, answer],
            "unchanged": [304, True],
            "refused": [401, "INVALID_API_KEY"],
            "nothing": [404, "NOT_FOUND"],
        }
        found = [
            f"{step}: {page.get(step)}, not {expected}"
            for step, expected in wanted.items()
            if page.get(step) != expected
        ]
        cut = page.get("cut", "")
        if not (cut and answer.startswith(cut) and len(cut) < len(answer)):
            found.append(f"cut: {cut!r} of {answer!r}")
        if "error" in page:
            found.append(f"error: {page['error']}")
        if self.other_origin != {"error": "TypeError: Failed to fetch"}:
            found.append(f"the other origin saw {self.other_origin}")
        if self.calls != 1:
            found.append(f"{self.calls} upstream calls")
        return found


def browsers() -> list[str]:
    """Return the installed browser, if any."""
    return list(filter(None, map(shutil.which, _NAMES)))[:1]


async def run_page(program: str) -> PageReport:
    """Open the page, with the same page of the other origin in a frame; return their reports."""
    async with site() as page, site() as other_origin:
        with Server() as server, tempfile.TemporaryDirectory() as scratch:
            settings, folder = RedisSettings(url=server.url), Path(scratch)
            async with ScriptedProvider() as provider, System(settings, provider, folder) as system:
                system.change("api", cors_origins=(page.origin,))
                url = await system.front()
                await system.worker()
                key = (await system.key()).key
                other_origin.settings = {"api": url, "key": key, "message": _MESSAGE}
                page.settings = other_origin.settings | {"frame": other_origin.origin}
                with _open_page(program, folder / "profile", page.origin):
                    reports = asyncio.gather(page.report, other_origin.report)
                    seen = await asyncio.wait_for(reports, _GIVE_UP_SECONDS)
                return PageReport(*seen, calls=len(provider.requests))


@contextmanager
def _open_page(program: str, profile: Path, url: str) -> Iterator[None]:
    """Open a page in a new browser process."""
    words = [program, *_FLAGS, f"--user-data-dir={profile}", url]
    process = Popen(words, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True)
    try:
        yield
    finally:
        # Kill the process group: pages are processes too, and write to the profile until they end.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
