"""Answers of chat completions, and their plain reading."""

import json
import random
import re
from typing import Any, Final

from shared.wire.message import FinishReason
from tests.worker.fuzz.mutations import ARGUMENTS, WORDS, pages, split
from tests.worker.fuzz.reading import (
    FaultError,
    anything,
    called,
    cited,
    decoded,
    either,
    fields,
    from_json,
    is_error,
    mapping,
    maybe,
    one,
    several,
    sound,
    used,
)
from tests.worker.providers.openai import DONE, ROW, chunk
from worker.providers.contract import Ended, GeneratedMedia, Part, Reasoning, Text

PIECES: Final = (
    *(b"data: [DONE]\n\n", b'"usage":null,', b'"finish_reason":"stop"', b'"choices":[],'),
    *(b'"delta":{"content":"x"}', b'"reasoning":"x",', b'"reasoning_content":"y",'),
    *(b'"images":[{"image_url":{"url":"data:image/png;base64,QUJD"}}],', b'"images":null,'),
    *(b'"audio":{"data":"QUJD"},', b'"audio":null,', b'"transcript":"x",', b";base64,", b"QUI="),
    *(b'"annotations":7,', b'"reasoning":{},', b'"reasoning":null,', b'"tool_calls":[],'),
    *(b'"index":0,', b'"id":"b",'),
)
_SHOWN: Final[tuple[dict[str, Any], ...]] = (
    {"images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}]},
    {"images": [{"image_url": {"url": "https://example.org/a"}}, {"image_url": {"url": ""}}]},
    {"images": [{"image_url": {"url": "data:image/svg+xml;base64,QQ="}}]},
    {"audio": {"id": "a", "data": "AAECAw==", "transcript": "Two"}},
    {"audio": {"data": "AAEC"}},
    {"audio": {"data": "", "transcript": None}},
    {"audio": {"data": "no base64"}},
)
_REASONS: Final = ("stop", "length", "content_filter", "tool_calls", "eos", "", None)
_OURS: Final[dict[str, FinishReason]] = {
    "eos": "stop",
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
}

# What was read from a cache, beside OpenAI's own field.
_READ: Final = ("prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens")


def answer(chance: random.Random) -> bytes:
    """Return the bytes of an answer of some server of this kind."""
    said = [chunk({"delta": {"role": "assistant", "content": ""}})]
    for _ in range(chance.randrange(6)):
        name = chance.choice(("content", "content", "content", "reasoning", "reasoning_content"))
        said.append(chunk({"delta": {name: chance.choice(WORDS)}, "finish_reason": None}))
    shown = chance.choices(_SHOWN, k=chance.choice((0, 0, 0, 0, 1, 2)))
    said += (chunk({"delta": delta}) for delta in shown)
    said.append(pages(chance, ROW.cited))
    for number in range(chance.choice((0, 0, 1, 1, 2))):
        pieces = split(chance, chance.choice(ARGUMENTS[:4] if chance.random() < 0.8 else ARGUMENTS))
        call_id = chance.choice(("a", "b", ""))
        tool, index = chance.choice("fffg") if chance.random() < 0.9 else "", number
        said.append(ROW.call(call_id, tool, pieces, index if chance.random() < 0.8 else 0))
    if chance.random() < 0.05:
        said.append(ROW.error_event(chance.choice((400, 429, 500)), "no"))
    if chance.random() < 0.9:
        said.append(chunk({"delta": {}, "finish_reason": chance.choice(_REASONS)}))
    if chance.random() < 0.5:
        tokens = {"prompt_tokens": chance.randrange(9), "completion_tokens": chance.randrange(9)}
        if chance.random() < 0.3:
            tokens |= {chance.choice((*_READ, "total_tokens")): chance.randrange(9)}
        said.append(chunk(usage=tokens))
    if chance.random() < 0.8:
        said.append(DONE)
    return b"".join(said)


class PlainReader:
    """The plain reading of one answer."""

    def __init__(self) -> None:
        # Every call that has begun, in its order: its index, id, name and arguments.
        self._begun: list[dict[str, Any]] = []
        self._samples = b""
        self._has_called = False
        self._has_ended = False
        self._has_said = False
        self._may_end = False
        self._counted = False
        self._is_over = False
        self._cited: list[str] = []

    def parts(self, text: str) -> list[Part] | None:
        """Return the parts of an event, or None for the last word. Raises FaultError."""
        if text.strip(" \t\n\"'").upper() in {"[DONE]", "DONE"}:
            self._is_over = True
            return None
        raw = from_json(text)
        said = _chunk(raw)
        if said is None:
            return []
        if is_error(said["error"]):
            raise FaultError
        self._check(mapping(raw), said)
        parts: list[Part] = []
        for choice in (said["choices"] or [])[:1]:
            parts += self._choice(choice)
        return parts + (self._used(said["usage"]) if said["usage"] is not None else [])

    def finish(self) -> list[Part]:
        """Return the end that is one because nothing follows."""
        counted = self._is_over and self._counted and self._has_said
        if self._has_ended or not (self._may_end or counted):
            return []
        return self._end("stop")

    def _check(self, raw: dict[str, Any], said: dict[str, Any]) -> None:
        """Raise FaultError for an error without an `error` field."""
        if said["choices"] is None and said["usage"] is None and not raw.get("choices"):
            names = {"message", "detail", "code", "msg", "errors", "error_msg"}
            if names & set(raw) or raw.get("object") == "error":
                raise FaultError

    def _choice(self, choice: dict[str, Any]) -> list[Part]:
        delta, reason = choice["delta"] or {}, choice["finish_reason"]
        parts: list[Part] = []
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        parts += [Reasoning(thought)] if thought and isinstance(thought, str) else []
        content = delta.get("content")
        if isinstance(content, str) and content:
            self._has_said = True
            parts.append(Text(content))
        for piece in (delta.get("tool_calls") or []) if not self._has_ended else []:
            self._gather(piece)
        parts += self._shown(delta)
        annotations = delta.get("annotations")
        for each in annotations if isinstance(annotations, list) else []:
            page = each.get("url_citation") if isinstance(each, dict) else None
            if isinstance(page, dict):
                parts += cited(self._cited, page.get("url"), page.get("title"))
        if is_error(choice["error"]) and not self._has_ended:
            raise FaultError
        if not self._has_ended and reason:
            known = _OURS.get(reason) if isinstance(reason, str) else None
            self._may_end = self._may_end or known is None
            parts += self._end(known) if known else []
        return parts

    def _used(self, usage: dict[str, Any]) -> list[Part]:
        details = usage.get("completion_tokens_details") or {}
        asked, answered = usage.get("prompt_tokens"), usage.get("completion_tokens")
        cache = usage.get("prompt_tokens_details") or {}
        thought = details.get("reasoning_tokens")
        cached = (cache.get("cached_tokens"), *(usage[name] for name in _READ))
        written = (
            *(cache.get("cache_write_tokens"), cache.get("cache_creation_tokens")),
            usage["cache_creation_input_tokens"],
        )
        in_cache = [max(filter(None, counts), default=0) for counts in (cached, written)]
        if asked is not None and answered is not None and any(in_cache):
            beside = usage["total_tokens"] == asked + answered + sum(in_cache)
            asked += sum(in_cache) if beside else 0
        found = used(asked, answered, thought, None, *in_cache)
        self._counted = self._counted or (bool(found) and bool(answered))
        return found

    def _shown(self, delta: dict[str, Any]) -> list[Part]:
        parts: list[Part] = []
        for picture in delta.get("images") or []:
            url = (picture["image_url"] or {}).get("url") or ""
            kind, is_inline, content = url.removeprefix("data:").partition(";base64,")
            is_picture = re.fullmatch(r"image/[a-z0-9.+-]+", kind) and url.startswith("data:")
            if is_inline and is_picture and (found := decoded(content)) is not None:
                parts.append(GeneratedMedia("image", kind, found))
        audio = delta.get("audio") or {}
        if audio.get("transcript"):
            self._has_said = True
            parts.append(Text(audio["transcript"]))
        if audio.get("data") and not self._has_ended:
            self._samples += decoded(audio["data"]) or b""
        return parts

    def _gather(self, piece: dict[str, Any]) -> None:
        function = piece["function"] or {}
        same = [call for call in self._begun if call["index"] == piece["index"]]
        is_new = not same or (piece["id"] and same[-1]["id"] not in {"", piece["id"]})
        if is_new:
            self._begun.append({"index": piece["index"], "id": "", "tool": "", "arguments": ""})
            same = self._begun[-1:]
        call = same[-1]
        call["id"] = call["id"] or piece["id"] or ""
        call["tool"] = call["tool"] or function.get("name") or ""
        said = function.get("arguments") or ""
        call["arguments"] += said if isinstance(said, str) else json.dumps(said)

    def _end(self, reason: FinishReason) -> list[Part]:
        calls: list[Part] = []
        for call in self._begun:
            try:
                calls.append(called(call["id"], call["tool"], call["arguments"]))
            except FaultError:
                if not self._has_said:
                    raise
        has_called = bool(self._begun)
        self._has_ended = True
        made, self._samples = sound(self._samples, 24_000), b""
        return [*calls, *made, Ended("tool_calls" if reason == "stop" and has_called else reason)]


_piece: Final = fields(
    index=maybe(one(int)),
    id=maybe(one(str)),
    function=maybe(fields(name=maybe(one(str)), arguments=either(mapping, one(str)))),
)
_picture: Final = fields(image_url=maybe(fields(url=maybe(one(str)))))
_chunk: Final = fields(
    choices=maybe(
        several(
            fields(
                delta=maybe(
                    fields(
                        content=maybe(one(str)),
                        reasoning_content=anything,
                        reasoning=anything,
                        tool_calls=maybe(several(_piece)),
                        images=maybe(several(_picture)),
                        audio=maybe(fields(data=maybe(one(str)), transcript=maybe(one(str)))),
                        annotations=anything,
                    )
                ),
                finish_reason=anything,
                error=anything,
            )
        )
    ),
    usage=maybe(
        fields(
            prompt_tokens=maybe(one(int)),
            completion_tokens=maybe(one(int)),
            total_tokens=maybe(one(int)),
            prompt_tokens_details=maybe(
                fields(
                    cached_tokens=maybe(one(int)),
                    cache_write_tokens=maybe(one(int)),
                    cache_creation_tokens=maybe(one(int)),
                )
            ),
            cache_creation_input_tokens=maybe(one(int)),
            **dict.fromkeys(_READ, maybe(one(int))),
            completion_tokens_details=maybe(fields(reasoning_tokens=maybe(one(int)))),
        )
    ),
    error=anything,
)
