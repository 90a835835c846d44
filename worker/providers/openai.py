"""Chat completions, as OpenAI and all compatible speak it: DeepSeek, Groq, vLLM, llama.cpp...

Owns one upstream's HTTP: the request, the event stream, and the one table from its failures to
ours. A call is one request; redirects are not followed, proxies of the environment not used,
compressed bodies refused, cookies not kept.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, Literal

import httpx
import msgspec
from httpx_sse import EventSource, ServerSentEvent, SSEError

from shared.errors import Category, ConfigurationError, Failure, ProviderError, Retry
from shared.settings import ProviderSettings, Secret
from worker.providers.bounds import BoundedStream
from worker.providers.contract import ChatRequest, Ended, Part, Reasoning, Text, Used
from worker.providers.lines import Lines

_ERROR_BYTES_MAX: Final = 65_536
_ERROR_SECONDS: Final = 0.5
# How long to listen after the last word for the end of the answer, which lets the line be kept.
_GOODBYE_SECONDS: Final = 0.1
# More than any model can read or write: a count beyond it is a fault of the upstream's bookkeeping.
_TOKENS_MAX: Final = 100_000_000

# status -> (category, code, does trying again help). What is not here is told by its hundred.
_BY_STATUS: Final[dict[int, tuple[Category, str, Retry]]] = {
    400: ("invalid_request", "REFUSED_REQUEST", "never"),
    401: ("auth", "BAD_CREDENTIALS", "never"),
    402: ("auth", "PROVIDER_UNPAID", "never"),
    403: ("auth", "PROVIDER_FORBIDS", "never"),
    404: ("invalid_request", "UNKNOWN_UPSTREAM_MODEL", "never"),
    408: ("timeout", "PROVIDER_TIMEOUT", "backoff"),
    409: ("overloaded", "PROVIDER_CONFLICT", "backoff"),
    413: ("invalid_request", "CONTEXT_TOO_LONG", "never"),
    422: ("invalid_request", "REFUSED_REQUEST", "never"),
    429: ("rate_limit", "PROVIDER_RATE_LIMITED", "backoff"),
    503: ("overloaded", "PROVIDER_OVERLOADED", "backoff"),
    529: ("overloaded", "PROVIDER_OVERLOADED", "backoff"),
}
_BY_HUNDRED: Final[dict[int, tuple[Category, str, Retry]]] = {
    3: ("provider_error", "UNEXPECTED_REDIRECT", "never"),
    4: ("invalid_request", "REFUSED_REQUEST", "never"),
    5: ("provider_error", "PROVIDER_FAILED", "backoff"),
}
_SENTENCES: Final[dict[str, str]] = {
    "rate_limit": "The provider limits how often it may be asked.",
    "overloaded": "The provider is overloaded.",
    "auth": "The provider refused the deployment's credentials.",
    "timeout": "The provider did not answer in time.",
    "invalid_request": "The provider refused the request.",
    "provider_error": "The provider failed.",
    "content_policy": "The provider's content policy forbids the answer.",
}
_BROKE_OFF: Final = "The provider's answer broke off."
_CONTEXT_WORDS: Final = (
    "context_length",
    "context length",
    "context size",
    "maximum context",
    "too many tokens",
)
# Only these may be told more exactly by words: a rate limit speaks of too many tokens, too.
_TOLD_BY_WORDS: Final = frozenset({"invalid_request", "provider_error"})
_POLICY_WORDS: Final = ("content_policy", "content_filter", "content management policy")
_REASONS: Final[dict[str, Literal["stop", "length", "content_filter", "tool_calls"]]] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
}


class _Delta(msgspec.Struct):
    """A step of the answer. Servers name what the model thinks the one way, the other, or both."""

    content: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    completion_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct):
    """What we read of a chunk; servers add much more."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_NOTHING: Final = _Delta()
_decode_chunk = msgspec.json.Decoder(_Chunk).decode


class OpenAI:
    """A connection to one upstream that speaks chat completions."""

    def __init__(self, settings: ProviderSettings, key: Secret | None) -> None:
        self._name = settings.name
        headers = {"accept-encoding": "identity", "user-agent": "pollux"}
        if key is not None:
            headers["authorization"] = f"Bearer {key.reveal()}"
        self._client = httpx.AsyncClient(
            headers=headers,
            transport=Lines(),
            follow_redirects=False,
            trust_env=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        )
        self._settings = settings
        self._url = _url(settings)

    async def close(self) -> None:
        """Close the upstream's connections."""
        await self._client.aclose()

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Part, None]:
        """Yield the parts of an answer; an end without `Ended` is a cut. Raises ProviderError."""
        has_ended = False
        try:
            with self._translated():
                async with self._open(request) as events:
                    async for event in events:
                        if event.data == "[DONE]":
                            await _say_goodbye(events)
                            break
                        for part in self._parts(event.data):
                            has_ended = has_ended or isinstance(part, Ended)
                            yield part
        except ProviderError as error:
            # What goes wrong with the line once the end was told takes nothing from the answer.
            if not has_ended or error.failure.code not in {"STREAM_CUT", "PROVIDER_SILENT"}:
                raise
        if not has_ended:
            raise self._error("provider_error", "STREAM_CUT", "backoff", _BROKE_OFF)

    @asynccontextmanager
    async def _open(
        self, request: ChatRequest
    ) -> AsyncIterator[AsyncGenerator[ServerSentEvent, None]]:
        """Send the request; yield the events of its answer. Who waits for parts is the patient."""
        silence_seconds = max(self._settings.idle_seconds, request.model.first_token_seconds)
        connect_seconds = self._settings.connect_seconds
        timeout = httpx.Timeout(silence_seconds, connect=connect_seconds, pool=connect_seconds)
        async with self._client.stream(
            "POST", self._url, json=_body(request), timeout=timeout
        ) as response:
            if response.status_code != httpx.codes.OK:
                raise self._refusal(response, await _head(response))
            if response.headers.get("content-encoding", "").lower() not in {"", "identity"}:
                raise self._error("provider_error", "COMPRESSED_RESPONSE", "never")
            if isinstance(response.stream, httpx.AsyncByteStream):
                response.stream = BoundedStream(response.stream, self._name, request.max_tokens)
            # Streams of events are UTF-8, be their head's charset what it will; a mark may lead.
            response.encoding = "utf-8-sig"
            async with aclosing(EventSource(response).aiter_sse()) as events:
                yield events

    def _parts(self, text: str) -> Iterator[Part]:
        """Read one event; one without data says nothing."""
        chunk = _decode_chunk(text) if text else _Chunk()
        if chunk.error is not None:
            raise self._in_band(chunk.error)
        for choice in (chunk.choices or ())[:1]:
            delta = choice.delta or _NOTHING
            # What comes in one step was thought before it was said.
            if delta.reasoning_content or delta.reasoning:
                yield from _thought(delta)
            if delta.content:
                yield Text(delta.content)
            if choice.finish_reason:
                yield Ended(_REASONS.get(choice.finish_reason, "other"))
        used = _used(chunk.usage) if chunk.usage is not None else None
        if used is not None:
            yield used

    def _refusal(self, response: httpx.Response, head: bytes) -> ProviderError:
        status = response.status_code
        category, code, retry = _BY_STATUS.get(status) or _BY_HUNDRED.get(
            status // 100, ("provider_error", "PROVIDER_FAILED", "never")
        )
        after = _seconds(response.headers.get("retry-after"))
        return self._told(head.decode(errors="replace"), category, code, retry, after)

    def _in_band(self, error: object) -> ProviderError:
        """Read an error event inside a 200; its `code` is a status with many servers."""
        code = error.get("code") if isinstance(error, dict) else None
        known = _BY_STATUS.get(code) if isinstance(code, int) else None
        category, name, retry = known or ("provider_error", "PROVIDER_FAILED", "backoff")
        return self._told(str(error), category, name, retry, None)

    def _told(
        self, text: str, category: Category, code: str, retry: Retry, after: float | None
    ) -> ProviderError:
        """Let what the upstream says in words refine its status; the words go nowhere."""
        said = text.lower() if category in _TOLD_BY_WORDS else ""
        if any(words in said for words in _CONTEXT_WORDS):
            category, code, retry = "invalid_request", "CONTEXT_TOO_LONG", "never"
        elif any(words in said for words in _POLICY_WORDS):
            category, code, retry = "content_policy", "CONTENT_POLICY", "never"
        return self._error(category, code, retry, after=after)

    def _error(
        self,
        category: Category,
        code: str,
        retry: Retry,
        message: str | None = None,
        after: float | None = None,
    ) -> ProviderError:
        failure = Failure(
            message=message or _SENTENCES[category],
            category=category,
            code=code,
            retryable=retry != "never",
            provider=self._name,
        )
        return ProviderError(failure, retry=retry, retry_after_seconds=after)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what httpx and the decoders raise into ours, by one table."""
        try:
            yield
        except (SSEError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._error("provider_error", "MALFORMED_STREAM", "backoff") from error
        except httpx.ConnectTimeout as error:
            raise self._error("timeout", "CONNECT_TIMEOUT", "backoff") from error
        except httpx.TimeoutException as error:
            raise self._error("timeout", "PROVIDER_SILENT", "backoff") from error
        except httpx.ConnectError as error:
            raise self._error("overloaded", "CONNECT_FAILED", "backoff") from error
        except httpx.HTTPError as error:
            raise self._error("provider_error", "STREAM_CUT", "backoff") from error


def _url(settings: ProviderSettings) -> httpx.URL:
    try:
        url = httpx.URL(settings.base_url.rstrip("/") + "/chat/completions")
        if url.host:
            return url
        fault = "names no host"
    except (httpx.InvalidURL, UnicodeError) as error:
        fault = str(error)
    raise ConfigurationError([f"providers.{settings.name}.base_url: {fault}"])


def _thought(delta: _Delta) -> Iterator[Reasoning]:
    """Return what was thought; an odd form of it is no fault of the answer, and says nothing."""
    thought = delta.reasoning_content or delta.reasoning
    if isinstance(thought, str):
        yield Reasoning(thought)


def _used(usage: _Usage) -> Used | None:
    """Return what was used, if it can be believed; otherwise it is for us to estimate."""
    details = usage.completion_tokens_details
    reasoning = (details.reasoning_tokens if details is not None else None) or 0
    asked, answered = usage.prompt_tokens, usage.completion_tokens
    if asked is None or answered is None:
        return None
    if not all(0 <= tokens <= _TOKENS_MAX for tokens in (asked, answered, reasoning)):
        return None
    return Used(asked, answered, reasoning)


def _body(request: ChatRequest) -> dict[str, object]:
    return {
        "model": request.model.upstream,
        "messages": [
            {"role": message.role, "content": message.content} for message in request.messages
        ],
        "max_tokens": request.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def _say_goodbye(events: AsyncGenerator[ServerSentEvent, None]) -> None:
    """Read to the end of an answer that has said its last word, if that end is there."""
    with suppress(httpx.HTTPError, ProviderError, TimeoutError):
        async with asyncio.timeout(_GOODBYE_SECONDS):
            async for _ in events:
                pass


async def _head(response: httpx.Response) -> bytes:
    """Return the beginning of an error's body, as much as is worth reading and waiting for."""
    head = b""
    with suppress(httpx.HTTPError, TimeoutError):
        async with asyncio.timeout(_ERROR_SECONDS):
            async for chunk in response.aiter_raw():
                head += chunk
                if len(head) > _ERROR_BYTES_MAX:
                    break
    return head[:_ERROR_BYTES_MAX]


def _seconds(header: str | None) -> float | None:
    """Read `Retry-After` in seconds; its date form is left to our own backoff."""
    try:
        seconds = float(header) if header is not None else None
    except ValueError:
        return None
    return seconds if seconds is not None and math.isfinite(seconds) and seconds >= 0 else None
