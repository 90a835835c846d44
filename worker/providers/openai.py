"""Chat completions, as OpenAI and all compatible speak it: DeepSeek, Groq, vLLM, llama.cpp...

Owns one upstream's HTTP: the request, the event stream, and the one table from its failures to
ours. A call is one request; redirects are not followed, proxies of the environment not used,
compressed bodies refused.
"""

import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, Literal

import httpx
import msgspec
from httpx_sse import EventSource, SSEError

from shared.errors import Category, Failure, ProviderError, Retry
from shared.settings import ProviderSettings, Secret
from worker.providers.bounds import BoundedStream
from worker.providers.contract import ChatRequest, Ended, Part, Text, Used

_ERROR_BYTES_MAX: Final = 65_536
_CONNECTIONS_MAX: Final = 1_000

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
_CONTEXT_WORDS: Final = (
    "context_length",
    "context length",
    "context size",
    "maximum context",
    "too many tokens",
)
_POLICY_WORDS: Final = ("content_policy", "content_filter", "content management policy")
_REASONS: Final[dict[str, Literal["stop", "length", "content_filter", "tool_calls"]]] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
}


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    completion_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct):
    """What we read of a chunk; servers add much more."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


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
            timeout=httpx.Timeout(
                settings.idle_seconds, connect=settings.connect_seconds, pool=None
            ),
            limits=httpx.Limits(max_connections=_CONNECTIONS_MAX, max_keepalive_connections=64),
            follow_redirects=False,
            trust_env=False,
        )
        self._url = settings.base_url.rstrip("/") + "/chat/completions"

    async def close(self) -> None:
        """Close the upstream's connections."""
        await self._client.aclose()

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Part, None]:
        """Yield the parts of an answer; an end without `Ended` is a cut. Raises ProviderError."""
        has_ended = False
        with self._translated():
            async with self._open(request) as response:
                async for event in EventSource(response).aiter_sse():
                    if event.data == "[DONE]":
                        break
                    for part in self._parts(_decode_chunk(event.data)):
                        has_ended = has_ended or isinstance(part, Ended)
                        yield part
        if not has_ended:
            raise self._error(
                "provider_error", "STREAM_CUT", "backoff", "The provider's answer broke off."
            )

    @asynccontextmanager
    async def _open(self, request: ChatRequest) -> AsyncIterator[httpx.Response]:
        async with self._client.stream("POST", self._url, json=_body(request)) as response:
            if response.status_code != httpx.codes.OK:
                raise self._refusal(response, await _head(response))
            if response.headers.get("content-encoding", "identity") != "identity":
                raise self._error("provider_error", "COMPRESSED_RESPONSE", "never")
            stream = response.stream
            if isinstance(stream, httpx.AsyncByteStream):
                response.stream = BoundedStream(stream, self._name)
            yield response

    def _parts(self, chunk: _Chunk) -> Iterator[Part]:
        if chunk.error is not None:
            raise self._in_band(chunk.error)
        for choice in chunk.choices[:1]:
            if choice.delta is not None and choice.delta.content:
                yield Text(choice.delta.content)
            if choice.finish_reason is not None:
                yield Ended(_REASONS.get(choice.finish_reason, "other"))
        if chunk.usage is not None:
            details = chunk.usage.completion_tokens_details
            reasoning = (details.reasoning_tokens if details is not None else None) or 0
            yield Used(chunk.usage.prompt_tokens, chunk.usage.completion_tokens, reasoning)

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
        said = text.lower()
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
        except httpx.ConnectTimeout as error:
            raise self._error("timeout", "CONNECT_TIMEOUT", "backoff") from error
        except httpx.TimeoutException as error:
            raise self._error("timeout", "PROVIDER_SILENT", "backoff") from error
        except httpx.ConnectError as error:
            raise self._error("overloaded", "CONNECT_FAILED", "backoff") from error
        except httpx.TransportError as error:
            raise self._error("provider_error", "STREAM_CUT", "backoff") from error
        except (SSEError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._error("provider_error", "MALFORMED_STREAM", "backoff") from error


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


async def _head(response: httpx.Response) -> bytes:
    """Return the beginning of an error's body, and no more of it than is worth reading."""
    head = b""
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
