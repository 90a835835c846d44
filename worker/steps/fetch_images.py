"""Fetches the images of the message for the model, or those of an explicit conversation.

Owns the failures of images: a failure names the field with the image's URL, never where that led.
Each image is fetched once more if that may help; one that fails ends the generation, since an
answer without it would answer another question. A URL that is listed twice is fetched once. A
deferred turn reuses its images if this worker still caches them. The format is detected by the
first bytes; no image is decoded here.
"""

import asyncio
from functools import partial
from typing import Final

from shared.errors import EgressError, EgressKind, Failure
from shared.media import formats
from shared.telemetry import logs
from worker.fetching.url_fetcher import FetchBudget
from worker.outcome import Failed
from worker.providers.contract import Image
from worker.run import Run

_RETRY_SECONDS: Final = 0.25
_FAULTS: Final[dict[EgressKind, tuple[str, str]]] = {
    "forbidden": ("MEDIA_FORBIDDEN", "must not be fetched: it leads to where Pollux does not go"),
    "unreachable": ("MEDIA_UNREACHABLE", "could not be fetched"),
    "too_large": ("MEDIA_TOO_LARGE", "is larger than pictures may be"),
    "encoded": ("MEDIA_TYPE", "comes in a compressed form"),
}
_NOT_AN_IMAGE: Final = ("MEDIA_TYPE", "is no picture of the forms PNG, JPEG, GIF and WebP")


async def fetch_images(run: Run) -> Failed | None:
    """Fill `run.images`; an image that cannot be fetched ends the generation."""
    claimed, urls_listed = run.claimed, [url for _, url in run.image_places]
    if not urls_listed:
        return None
    held = run.dependencies.image_cache.take(claimed.account, claimed.id)
    if held is not None:
        run.images = held
        return None
    budget = FetchBudget(claimed.account, run.dependencies.settings.media.fetched_bytes_max)
    urls = tuple(dict.fromkeys(urls_listed))
    fetching = [asyncio.create_task(_fetch(run, url, budget)) for url in urls]
    try:
        # Once one has failed, the others are useless.
        await asyncio.wait(fetching, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for each in fetching:
            each.cancel()
        results = await asyncio.gather(*fetching, return_exceptions=True)
    by_url = dict(zip(urls, results, strict=True))
    return _check_images(run, [by_url[url] for url in urls_listed])


def _check_images(run: Run, results: list[bytes | BaseException]) -> Failed | None:
    """Fill `run.images`, unless one of the results is a failure."""
    # The others were cancelled when one failed, so look for that failure first.
    for index, content in enumerate(results):
        if isinstance(content, EgressError):
            is_passing = content.kind == "unreachable"
            return _failed(run, index, _FAULTS[content.kind], retryable=is_passing)
        if isinstance(content, Exception):
            raise content
    images, left = [], run.dependencies.settings.media.fetched_bytes_max
    for index, content in enumerate(results):
        if isinstance(content, BaseException):
            raise content
        left -= len(content)
        if left < 0:
            # A URL that is listed twice is fetched once but counts twice.
            return _failed(run, index, _FAULTS["too_large"])
        media_format = formats.detect_format(content)
        if media_format is None or media_format.kind != "image":
            return _failed(run, index, _NOT_AN_IMAGE)
        images.append(Image(media_format.media_type, content))
    run.images = tuple(images)
    return None


async def _fetch(run: Run, url: str, budget: FetchBudget) -> bytes:
    """Return an image's bytes, with one retry if it may help. Raises EgressError."""
    media = run.dependencies.settings.media
    ask = partial(
        run.dependencies.url_fetcher.fetch,
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
    await run.dependencies.clock.sleep(_RETRY_SECONDS)
    return await ask()


def _failed(run: Run, index: int, fault: tuple[str, str], *, retryable: bool = False) -> Failed:
    code, words = fault
    place, _ = run.image_places[index]
    logs.logger().info("an image cannot be used", place=place, code=code)
    return Failed(
        Failure(
            message=f"The picture at `{place}` {words}.",
            category="invalid_request",
            code=code,
            retryable=retryable,
        )
    )
