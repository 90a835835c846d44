"""Translates every failure of an upstream call into a `ProviderError`, for all dialects.

Owns the table from an unusable answer to its failure. `refusals` classifies a refusal, and
`aiohttp_transport` the failure of a connection. The upstream's own words are passed on only where
they are about the request itself, and as far as `quoted_words` allows: they may contain keys, names
and addresses.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import httpx
import msgspec

from shared.clock import Clock, SystemClock
from shared.errors import Failure, ProviderError, Retry
from shared.settings import Secret
from worker.providers.aiohttp_transport import ResponseHead, TransportError
from worker.providers.finish_reasons import AnswerFailedError
from worker.providers.quoted_words import quotable_words
from worker.providers.rate_limit_headers import RateLimits, read_rate_limits
from worker.providers.refusal_text import RefusalExplanation
from worker.providers.refusals import (
    Classification,
    classify_in_band_error,
    classify_refusal,
    is_unexplained,
)
from worker.providers.retry_after import find_retry_after
from worker.providers.sse import PageError, TooLargeError

# The first match counts: the particular before the general.
_BY_EXCEPTION: Final[tuple[tuple[tuple[type[Exception], ...], Classification], ...]] = (
    ((TooLargeError,), ("provider_error", "RESPONSE_TOO_LARGE", "never")),
    ((AnswerFailedError,), ("provider_error", "PROVIDER_FAILED", "backoff")),
    ((PageError,), ("provider_error", "NOT_AN_ANSWER", "never")),
    ((msgspec.MsgspecError, RecursionError), ("provider_error", "MALFORMED_STREAM", "backoff")),
)
CONTENT_POLICY: Final = "The provider's content policy forbids the answer."
_BY_CATEGORY: Final[dict[str, str]] = {
    "rate_limit": "The provider limits how often it may be asked.",
    "overloaded": "The provider is overloaded.",
    "auth": "The provider refused the deployment's credentials.",
    "timeout": "The provider did not answer in time.",
    "invalid_request": "The provider refused the request.",
    "provider_error": "The provider failed.",
    "content_policy": CONTENT_POLICY,
}
_BY_CODE: Final[dict[str, str]] = {
    "STREAM_CUT": "The provider's answer broke off.",
    "NOT_AN_ANSWER": "The provider sent a web page where an answer should be.",
    "RESPONSE_TOO_LARGE": "The provider sent more than an answer may hold.",
    "CONTEXT_TOO_LONG": "The conversation is too long for the model.",
    "REQUEST_UNAFFORDABLE": "The deployment cannot pay the provider for so long a request.",
    "PROVIDER_UNPAID": "The deployment's account with the provider has no credit left.",
    "UNKNOWN_UPSTREAM_MODEL": "The provider does not serve this model.",
}


# Of these failures the upstream's own words are quoted, if it refused with one of these statuses:
# others may be about the deployment's credentials, its account or its region.
_QUOTED: Final[dict[str, frozenset[int]]] = {
    "REFUSED_REQUEST": frozenset({400, 413, 422}),
    "CONTEXT_TOO_LONG": frozenset({400, 413, 422}),
    "CONTENT_POLICY": frozenset({400, 403, 413, 422, 451}),
}
_WITHOUT_STATUS: Final = 400

# Values of an `error` field by which some servers say that there is no error.
NO_ERROR: Final = (False, "")


class InBandError(Exception):
    """An upstream reports a failure in the body of a 200; `error` is its decoded JSON.

    Wrapping `error` objects are removed. Usually it is an object with `code`, `status`, `type` and
    `message`; some servers send only a text.
    """

    def __init__(self, error: object) -> None:
        super().__init__()
        while isinstance(error, dict) and isinstance(error.get("error"), dict):
            error = error["error"]
        self.error = error


class UpstreamRefusalError(ProviderError):
    """An upstream answered with a status other than 200.

    `is_unexplained`: it refused the request for no known reason, so perhaps for its length.
    `limits` are the rate limits in its headers.
    """

    def __init__(self, failure: Failure, retry: Retry, retry_after_seconds: float | None) -> None:
        super().__init__(failure, retry=retry, retry_after_seconds=retry_after_seconds)
        self.is_unexplained = False
        self.limits: RateLimits | None = None


class FailureTranslator:
    """Makes the errors of one upstream, under its name.

    Its words are quoted under its `title`, without any part of its key or its host's name. Without
    a title, nothing is quoted.
    """

    def __init__(
        self,
        provider: str,
        clock: Clock | None = None,
        *,
        title: str | None = None,
        key: Secret | None = None,
        host: str = "",
    ) -> None:
        self._provider = provider
        self._clock = clock or SystemClock()
        self._title = title
        self._key = key
        self._host = host

    def refusal(
        self,
        response: ResponseHead | httpx.Response,
        head: bytes,
        own_texts: Iterable[str] = (),
    ) -> ProviderError:
        """Return the error of a status other than 200; `head` is the beginning of the body.

        Nothing of `own_texts` is quoted: the request's caller has not written it.
        """
        explanation, now = RefusalExplanation.from_body(head), self._now()
        after = find_retry_after(response.headers, explanation, now=now)
        classification = classify_refusal(
            response.status_code, explanation, has_retry_after=after is not None
        )
        error = UpstreamRefusalError(
            self._quoting(classification, explanation, response.status_code, own_texts),
            classification[2],
            after if classification[2] != "never" else None,
        )
        error.is_unexplained = is_unexplained(response.status_code, explanation, classification)
        error.limits = read_rate_limits(response.headers, now=now)
        return error

    def check_encoding(self, response: ResponseHead) -> None:
        """Refuse a compressed body, which was not asked for. Raises ProviderError."""
        if response.is_compressed:
            raise self.error(("provider_error", "COMPRESSED_RESPONSE", "never"))

    def error(
        self, classification: Classification, retry_after_seconds: float | None = None
    ) -> ProviderError:
        """Return an error of this upstream."""
        failure = self._failure(classification)
        return ProviderError(
            failure, retry=classification[2], retry_after_seconds=retry_after_seconds
        )

    def _failure(self, classification: Classification) -> Failure:
        category, code, retry = classification
        return Failure(
            message=_BY_CODE.get(code) or _BY_CATEGORY[category],
            category=category,
            code=code,
            retryable=retry != "never",
            provider=self._provider,
        )

    def _quoting(
        self,
        classification: Classification,
        explanation: RefusalExplanation,
        status: int,
        own_texts: Iterable[str],
    ) -> Failure:
        """Return the failure, with the upstream's words where its caller may read them."""
        failure = self._failure(classification)
        if self._title is None or status not in _QUOTED.get(failure.code, ()):
            return failure
        key = self._key.reveal() if self._key is not None else ""
        words = quotable_words(explanation.messages, key, self._host, own_texts)
        if not words:
            return failure
        sentence = failure.message.replace("The provider", self._title, 1).removesuffix(".")
        return msgspec.structs.replace(failure, message=f'{sentence}: "{words}".')

    def _now(self) -> float:
        return self._clock.now_ms() / 1000

    def _in_band(self, explanation: RefusalExplanation, own_texts: Iterable[str]) -> ProviderError:
        """Return the error that is reported in the body of a 200."""
        after = find_retry_after({}, explanation, now=self._now())
        classification = classify_in_band_error(explanation, has_retry_after=after is not None)
        status = next(iter(explanation.statuses), _WITHOUT_STATUS)
        return ProviderError(
            self._quoting(classification, explanation, status, own_texts),
            retry=classification[2],
            retry_after_seconds=after if classification[2] != "never" else None,
        )

    @contextmanager
    def translated_errors(self, own_texts: Iterable[str] = ()) -> Iterator[None]:
        """Turn the exceptions of a call into a ProviderError; any other exception passes.

        For `own_texts` see `refusal`.
        """
        try:
            yield
        except InBandError as explanation:
            refusal = RefusalExplanation.of(explanation.error)
            raise self._in_band(refusal, own_texts) from None
        except TransportError as error:
            raise self.error(error.classification) from error
        except Exception as error:
            for kinds, classification in _BY_EXCEPTION:
                if isinstance(error, kinds):
                    raise self.error(classification) from error
            raise
