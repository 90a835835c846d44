"""The file of answers after a death at any byte of it, and an upload of a file that changes."""

import json
from pathlib import Path

import pytest

from deploy.batch.answers import Order, answer_file
from deploy.batch.batch_api import BatchApi
from deploy.batch.display import Display
from deploy.batch.prompts import Fingerprint, Prompts
from deploy.batch.upload import Upload, Uploader
from deploy.target import Target
from shared.clock import SystemClock
from shared.errors import RequestError
from tests.deploy.batch_command import write_prompts
from tests.support.scripted_batches import ScriptedBatches


def _sent(order: Order) -> list[bytes]:
    """Return lines as the API sends them; lines 2 and 5 of the prompts are blank."""
    lines = []
    for seq, line in enumerate((1, 3, 4, 6), 1):
        fields = {"custom_id": f"é{line}", "line": line, "state": "completed", "result": {"n": seq}}
        lines.append(json.dumps(fields | ({"seq": seq} if order == "finished" else {})).encode())
    return lines


@pytest.mark.parametrize("order", ["input", "finished"])
def test_a_file_that_was_cut_anywhere_is_continued_exactly(tmp_path: Path, order: Order) -> None:
    whole, path = tmp_path / "whole", tmp_path / "answers.jsonl"
    sent = _sent(order)
    with answer_file(whole, order, overwrite=False) as answers:
        answers.begin("batch-1")
        answers.write(sent)
    content = whole.read_bytes()
    for cut in range(len(content) + 1):
        # A power failure leaves zeros in the place of what was not stored yet.
        for tail in (b"", b"\0\0\0") if cut % 8 == 0 else (b"",):
            path.write_bytes(content[:cut] + tail)
            with answer_file(path, order, overwrite=False) as answers:
                written = content[:cut].count(b"\n")
                assert answers.count == written
                assert answers.batch_id == ("batch-1" if written else None)
                answers.begin("batch-1")
                # The API may send lines again that are there.
                answers.write(sent[max(0, written - 1) :])
            assert path.read_bytes() == content, cut


async def test_a_file_that_changes_during_its_upload_is_not_accepted(
    batches_api: ScriptedBatches, tmp_path: Path
) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 1000)
    prompts = Prompts(tmp_path / "prompts.jsonl", "prompts.jsonl", "jsonl")
    before = Fingerprint("of the content before", 1, 1)
    display = Display(is_live=False)
    async with Target(batches_api.url, "the-key").connect("test") as http:
        api = BatchApi(http, SystemClock(), display.note)
        uploader = Uploader(api, SystemClock(), display, Upload(prompts, before, {}, {}))
        with pytest.raises(RequestError, match=r"prompts\.jsonl was changed while it was uploaded"):
            await uploader.create(1)
    assert batches_api.batches == []
