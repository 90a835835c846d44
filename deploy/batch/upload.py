"""Finds the batch that a file and its options name, and uploads the file where there is none.

Owns the names: the Idempotency-Key is the fingerprint of content and options; a repetition that
was asked for (`--new`) adds its number. Where the API knows the key, nothing is sent, so no prompt
is sent twice, after any crash and from any machine.
"""

import zlib
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

import httpx
import msgspec

from deploy.batch.batch_api import BatchApi, Params, RefusalError
from deploy.batch.display import Display
from deploy.batch.prompts import Fingerprint, Prompts, new_digest
from deploy.batch.wire import Batch, Receipt, decode_receipt
from shared.clock import Clock
from shared.errors import Code, RequestError, UnavailableError

_LEVEL: Final = 3
_GZIP_BITS: Final = 31
_CONFLICT_SECONDS: Final = 0.5
# The first run may have been deleted before the second.
_RUNS_LOOKED_AT: Final = 2


class Upload(NamedTuple):
    """Prompts that are to be a batch. `options` are part of its name, `others` are not."""

    prompts: Prompts
    fingerprint: Fingerprint
    options: Params
    others: Params


class Uploader:
    """Finds or makes one batch."""

    def __init__(self, api: BatchApi, clock: Clock, display: Display, upload: Upload) -> None:
        self.receipt: Receipt | None = None
        self._api = api
        self._clock = clock
        self._display = display
        self._upload = upload

    async def find_runs(self) -> list[Batch | None]:
        """Return the batches of this name: the first, the second by `--new`, and so on.

        Ends with None, for the next one.
        """
        runs: list[Batch | None] = []
        while len(runs) < _RUNS_LOOKED_AT or runs[-1] is not None:
            runs.append(await self._api.find(self._key(len(runs) + 1)))
        while len(runs) > 1 and runs[-2] is None:
            runs.pop()
        return runs

    async def create(self, number: int) -> Batch:
        """Upload the prompts as the run of this number, or return the one that exists by then."""
        key = self._key(number)
        # A batch has its key once its upload has ended.
        while (found := await self._api.find(key)) is None:
            self.receipt = await self._try_upload(key)
            if self.receipt is not None:
                return await self._api.load(self.receipt.batch_id)
        return found

    async def _try_upload(self, key: str) -> Receipt | None:
        """Upload once; None where the outcome has to be looked up."""
        try:
            reply = await self._api.post_body(
                {**self._upload.options, **self._upload.others}, key, self._gzipped()
            )
        except RefusalError as error:
            if error.status == httpx.codes.UNPROCESSABLE_ENTITY and await self._api.find(key):
                # Made a moment ago with another limit or other metadata, which are not in the key.
                return None
            if error.status == httpx.codes.CONFLICT:
                await self._wait_for_other(error.retry_after_seconds)
            else:
                await self._api.pause_after(error)
        except httpx.RequestError as error:
            await self._api.pause_after(error)
        else:
            try:
                return decode_receipt(reply.content)
            except msgspec.MsgspecError:
                raise UnavailableError("The API does not answer as Pollux does.") from None
        return None

    async def _wait_for_other(self, seconds: float) -> None:
        """Wait for an upload of the same prompts: another command's, or one that broke off."""
        self._display.tell("[another upload of these prompts is under way; waiting for it]")
        await self._clock.sleep(max(seconds, _CONFLICT_SECONDS))

    async def _gzipped(self) -> AsyncIterator[bytes]:
        """Yield the body as it is sent, and end it only if the file is still the same."""
        prompts, fingerprint = self._upload.prompts, self._upload.fingerprint
        digest, compressor = (
            new_digest(self._upload.options),
            zlib.compressobj(_LEVEL, wbits=_GZIP_BITS),
        )
        sent = 0
        for piece in prompts.pieces():
            digest.update(piece)
            sent += len(piece)
            compressed = compressor.compress(piece)
            if compressed:
                yield compressed
            self._display.show_work("uploading", sent, fingerprint.size)
        if digest.hexdigest() != fingerprint.digest:
            raise RequestError(
                f"{prompts.name} was changed while it was uploaded; nothing was accepted.",
                Code.INVALID_FIELDS,
            )
        yield compressor.flush()

    def _key(self, number: int) -> str:
        name = f"pollux-{self._upload.fingerprint.digest}"
        return name if number == 1 else f"{name}-{number}"
