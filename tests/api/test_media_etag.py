"""With media, the ETag changes with the URLs: no 304 leaves a client with expired ones."""

from collections.abc import AsyncGenerator

import pytest

from shared.media.url_signing import UrlSigner
from shared.wire.message import Media
from tests.support.api_client import ApiClient
from worker.providers.contract import ChatRequest, Ended, Part
from worker.providers.registry import Registry


class _Painter:
    """A provider whose answer is a picture."""

    async def stream(self, _: ChatRequest) -> AsyncGenerator[Part, None]:
        yield Media("image", "https://example.org/1")
        yield Ended("stop")


@pytest.mark.usefixtures("worker")
async def test_a_tag_of_media_changes_when_their_urls_do(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Registry, "provider_of", lambda *_: _Painter())
    monkeypatch.setattr(UrlSigner, "expires", lambda *_: 1_000)
    receipt = await api.submit("draw")
    await api.wait_for_end(receipt)
    tag = (await api.get(receipt["poll_url"])).headers["etag"]
    same = await api.get(receipt["poll_url"], headers={"if-none-match": tag})
    assert same.status_code == 304
    monkeypatch.setattr(UrlSigner, "expires", lambda *_: 2_000)
    later = await api.get(receipt["poll_url"], headers={"if-none-match": tag})
    assert later.status_code == 200
    assert later.headers["etag"] != tag
