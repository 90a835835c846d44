"""Answers of Gemini's generateContent, and their plain reading."""

import json
import random
from typing import Any, Final

from shared.wire.message import FinishReason
from tests.worker.fuzz.mutations import ARGUMENTS, WORDS, pages
from tests.worker.fuzz.reading import (
    FaultError,
    anything,
    called,
    cited,
    decoded,
    fields,
    from_json,
    is_error,
    maybe,
    one,
    several,
    sound,
    used,
)
from tests.worker.providers.dialect_row import event
from tests.worker.providers.gemini import ROW, chunk, grounded, used as counts
from worker.providers.contract import Ended, GeneratedMedia, Part, Reasoning, Text

PIECES: Final = (
    *(b'"thought":true,', b'"text":"x",', b'"functionCall":{"name":"f"},', b'"args":null,'),
    *(b'"finishReason":"STOP",', b'"usageMetadata":null,', b'"candidates":[],', b'"parts":null,'),
    *(b'"inlineData":{"mimeType":"image/png","data":"QUJD"},', b'"inlineData":null,', b"QUI="),
    *(b'"mimeType":"audio/L16;rate=16000",', b'"data":"QUJDREVG",', b"; rate=48000", b"image/"),
    *(b'"promptFeedback":{"blockReason":"SAFETY"},', b'"promptTokenCount":5,'),
    *(b'"groundingMetadata":7,', b'"web":7,', b'"webSearchQueries":["x"],'),
)
_BLOBS: Final = (
    *(("image/png", "iVBORw=="), ("IMAGE/WEBP;a=b", "AAEC"), ("video/mp4", "AAEC"), ("", "AAEC")),
    *(
        ("audio/L16;codec=pcm;rate=16000", "AAECAw=="),
        ("audio/pcm", "AAEC"),
        ("audio/mpeg", "SUQz"),
    ),
    *(("image/png", ""), ("image/png", "no base64"), ("image/png", "QUI"), ("audio/l16", "")),
)
_REASONS: Final = ("STOP", "STOP", "MAX_TOKENS", "SAFETY", "LANGUAGE", "", None)
_OURS: Final[dict[str, FinishReason]] = {
    "LANGUAGE": "content_filter",
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
}


def answer(chance: random.Random) -> bytes:
    """Return the bytes of an answer of some server of this kind."""
    said = []
    for _ in range(chance.randrange(6)):
        part: dict[str, Any] = {"text": chance.choice(WORDS)}
        if chance.random() < 0.25:
            part["thought"] = True
        usage = counts(5, 1) if chance.random() < 0.3 else None
        said.append(chunk(part, usageMetadata=usage))
    for _ in range(chance.choice((0, 0, 0, 0, 1, 2))):
        kind, data = chance.choice(_BLOBS)
        blob: dict[str, Any] = {"inlineData": {"mimeType": kind, "data": data}}
        said.append(chunk(blob | ({"thought": True} if chance.random() < 0.1 else {})))
    said.append(pages(chance, ROW.cited))
    said.append(grounded([], chance.choice((0, 0, 0, 3))))
    for _ in range(chance.choice((0, 0, 0, 1, 2))):
        pieces = [chance.choice(ARGUMENTS[:4] if chance.random() < 0.8 else ARGUMENTS)]
        said.append(ROW.call(chance.choice(("a", "")), chance.choice(("f", "g", "")), pieces, 0))
    if chance.random() < 0.05:
        said.append(ROW.error_event(chance.choice((400, 429, 500)), "no"))
    if chance.random() < 0.05:
        said.append(event({"promptFeedback": {"blockReason": "SAFETY"}}))
    if chance.random() < 0.9:
        usage = counts(chance.randrange(9), 3) if chance.random() < 0.8 else None
        said.append(chunk({"text": ""}, reason=chance.choice(_REASONS), usageMetadata=usage))
    return b"".join(said)


class PlainReader:
    """The plain reading of one answer."""

    def __init__(self) -> None:
        self._samples, self._rate = b"", 24_000
        self._has_called = False
        self._has_ended = False
        self._has_said = False
        self._may_end = False
        self._usage: dict[str, Any] | None = None
        self._cited: list[str] = []
        self._searches = 0

    def parts(self, text: str) -> list[Part] | None:
        """Return the parts of an event; there is no last word. Raises FaultError."""
        said = _chunk(from_json(text))
        if said is None:
            return []
        if is_error(said["error"]):
            raise FaultError
        parts: list[Part] = []
        for candidate in (said["candidates"] or [])[:1]:
            for part in (candidate["content"] or {}).get("parts") or []:
                parts += self._told(part)
            if isinstance(candidate["groundingMetadata"], dict):
                parts += self._grounds(candidate["groundingMetadata"])
            reason = candidate["finishReason"]
            if reason and not self._has_ended:
                known = _OURS.get(reason) if isinstance(reason, str) else None
                self._may_end = self._may_end or known is None
                parts += self._end(known) if known else []
        if (said["promptFeedback"] or {}).get("blockReason") and not self._has_ended:
            parts += self._end("content_filter")
        self._usage = said["usageMetadata"] or self._usage
        return parts + self._used()

    def finish(self) -> list[Part]:
        """Return the end that is one because nothing follows."""
        if self._has_ended or not self._may_end:
            return []
        return self._end("stop") + self._used()

    def _used(self) -> list[Part]:
        if not self._has_ended or self._usage is None:
            return []
        usage, self._usage = self._usage, None
        thoughts = usage["thoughtsTokenCount"] or 0
        answered = (usage["candidatesTokenCount"] or 0) + thoughts
        return used(usage["promptTokenCount"], answered, thoughts, self._searches)

    def _grounds(self, grounding: dict[str, Any]) -> list[Part]:
        queries, chunks = grounding.get("webSearchQueries"), grounding.get("groundingChunks")
        if isinstance(queries, list) and len(queries) > self._searches:
            self._searches = len(queries)
        parts: list[Part] = []
        for chunk_ in chunks if isinstance(chunks, list) else []:
            page = chunk_.get("web") if isinstance(chunk_, dict) else None
            if isinstance(page, dict):
                parts += cited(self._cited, page.get("uri"), page.get("title"))
        return parts

    def _told(self, part: dict[str, Any]) -> list[Part]:
        parts: list[Part] = []
        if part["text"]:
            self._has_said = self._has_said or not part["thought"]
            parts.append(Reasoning(part["text"]) if part["thought"] else Text(part["text"]))
        call = part["functionCall"]
        if call is not None:
            self._has_called = True
            parts += self._call(call)
        if part["inlineData"] is not None and not part["thought"]:
            parts += self._made(part["inlineData"])
        return parts

    def _call(self, call: dict[str, Any]) -> list[Part]:
        arguments = call["args"]
        is_text = isinstance(arguments, str) and arguments.startswith("{")
        said = arguments if is_text else json.dumps(arguments)
        try:
            return [called(call["id"], call["name"], said)]
        except FaultError:
            if not self._has_said:
                raise
            return []

    def _made(self, blob: dict[str, Any]) -> list[Part]:
        name, *more = [word.strip() for word in (blob["mimeType"] or "").lower().split(";")]
        kind = name.split("/")[0]
        if kind not in {"image", "audio"} or not blob["data"]:
            return []
        content = decoded(blob["data"])
        if name not in {"audio/l16", "audio/pcm"}:
            if content is None:
                return []
            return [GeneratedMedia("image" if kind == "image" else "audio", name, content)]
        rates = [word[5:] for word in more if word.startswith("rate=")]
        rates = [each for each in rates if each.isascii() and each.isdigit()]
        rates = [each for each in rates if 4 <= len(each) <= 6]
        if not self._has_ended:
            self._rate = int(rates[0]) if rates and int(rates[0]) else self._rate
            self._samples += content or b""
        return []

    def _end(self, reason: FinishReason) -> list[Part]:
        self._has_ended = True
        made, self._samples = sound(self._samples, self._rate), b""
        is_call = reason == "stop" and self._has_called
        return [*made, Ended("tool_calls" if is_call else reason)]


_count: Final = maybe(one(int))
_text: Final = maybe(one(str))
_part: Final = fields(
    text=_text,
    thought=maybe(one(bool)),
    inlineData=maybe(fields(mimeType=_text, data=_text)),
    # What the arguments are is judged when they count.
    functionCall=maybe(fields(id=_text, name=_text, args=anything)),
)
_chunk: Final = fields(
    candidates=maybe(
        several(
            fields(
                content=maybe(fields(parts=maybe(several(_part)))),
                finishReason=anything,
                groundingMetadata=anything,
            ),
        )
    ),
    usageMetadata=maybe(
        fields(promptTokenCount=_count, candidatesTokenCount=_count, thoughtsTokenCount=_count)
    ),
    promptFeedback=maybe(fields(blockReason=anything)),
    error=anything,
)
