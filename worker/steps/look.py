"""Fetch the pictures that came with the message, for the model to look at.

Owns what may go wrong with one of them, and how that is told: by its place, with nothing of where
it led. Each is fetched once more where that may help; one that fails ends the generation, since an
answer without it would be to another question. A URL that stands there twice is fetched once, and a
turn that was put off brings its pictures along where this worker still holds them. What a picture
is, its first bytes say; none is decoded here.
"""

import asyncio
from functools import partial
from typing import Final

from shared.errors import EgressError, EgressKind, Failure
from shared.media import kinds
from shared.telemetry import logs
from worker.fetch import Budget
from worker.providers.contract import Image
from worker.run import Failed, Run

_AGAIN_SECONDS: Final = 0.25
_FAULTS: Final[dict[EgressKind, tuple[str, str]]] = {
    "forbidden": ("MEDIA_FORBIDDEN", "must not be fetched: it leads to where Pollux does not go"),
    "unreachable": ("MEDIA_UNREACHABLE", "could not be fetched"),
    "too_large": ("MEDIA_TOO_LARGE", "is larger than pictures may be"),
    "encoded": ("MEDIA_TYPE", "comes in a compressed form"),
}
_NO_PICTURE: Final = ("MEDIA_TYPE", "is no picture of the forms PNG, JPEG, GIF and WebP")


async def look(run: Run) -> Failed | None:
    """Fill `run.images`; a picture that cannot be had ends the generation."""
    features, claimed = run.submission.features, run.claimed
    if not features.media_urls:
        return None
    held = run.tools.pictures.take(claimed.account, claimed.id)
    if held is not None:
        run.images = held
        return None
    budget = Budget(claimed.account, run.tools.settings.media.fetched_bytes_max)
    urls = tuple(dict.fromkeys(features.media_urls))
    fetching = [asyncio.create_task(_fetch(run, url, budget)) for url in urls]
    try:
        # With the first that fails the others are of no use.
        await asyncio.wait(fetching, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for each in fetching:
            each.cancel()
        came = await asyncio.gather(*fetching, return_exceptions=True)
    by_url = dict(zip(urls, came, strict=True))
    return _taken(run, [by_url[url] for url in features.media_urls])


def _taken(run: Run, came: list[bytes | BaseException]) -> Failed | None:
    """Fill `run.images` with what came, unless one of them is a failure."""
    # Those that were still on their way when one failed are cancelled: the failure comes first.
    for place, content in enumerate(came):
        if isinstance(content, EgressError):
            is_passing = content.kind == "unreachable"
            return _failed(place, _FAULTS[content.kind], retryable=is_passing)
        if isinstance(content, Exception):
            raise content
    images, left = [], run.tools.settings.media.fetched_bytes_max
    for place, content in enumerate(came):
        if isinstance(content, BaseException):
            raise content
        left -= len(content)
        if left < 0:
            # One that stands there twice is fetched once, but shown twice.
            return _failed(place, _FAULTS["too_large"])
        form = kinds.form_of(content)
        if form is None or form.kind != "image":
            return _failed(place, _NO_PICTURE)
        images.append(Image(form.media_type, content))
    run.images = tuple(images)
    return None


async def _fetch(run: Run, url: str, budget: Budget) -> bytes:
    """Return a picture's bytes, asked for once more where it may help. Raises EgressError."""
    media = run.tools.settings.media
    ask = partial(
        run.tools.outside.fetch,
        url,
        bytes_max=media.file_bytes_max,
        seconds=min(media.fetch_seconds, max(0.0, run.seconds_left())),
        budget=budget,
    )
    try:
        return await ask()
    except EgressError as error:
        if error.retry == "never":
            raise
    await run.tools.clock.sleep(_AGAIN_SECONDS)
    return await ask()


def _failed(place: int, fault: tuple[str, str], *, retryable: bool = False) -> Failed:
    code, words = fault
    logs.logger().info("a picture cannot be had", place=place, code=code)
    return Failed(
        Failure(
            message=f"The picture at `media_urls[{place}]` {words}.",
            category="invalid_request",
            code=code,
            retryable=retryable,
        )
    )
