"""What a provider allows, in the words of the function that keeps to it for all workers.

Owns the arithmetic from so many a minute to times between two. Refuses to count: that is Redis'.

DESIGN. A provider may count its minutes from any moment. A tenth of the requests may come at once,
and the others are spread, so that no minute, whenever it begins, sees more than allowed; of the
tokens a quarter, since one call may need many.
"""

from typing import Final, NamedTuple

from shared.redis.functions import AdmitCallAsk, EndCallAsk
from shared.settings import ProviderSettings
from shared.wire.submission import Lane

_MINUTE_US: Final = 60_000_000
_REQUESTS_BURST: Final = 10
_TOKENS_BURST: Final = 4


class ProviderRateLimits(NamedTuple):
    """The limits of one provider."""

    provider: ProviderSettings

    def admit_ask(self, call: str, lane: Lane, tokens: int, lease_ms: int) -> AdmitCallAsk:
        """Return what is asked for a call that is thought to take so many tokens."""
        one, batch = self.provider, None
        request_us, burst = self._request_us(), self._requests_burst()
        if one.concurrency_max:
            batch = max(1, int(one.concurrency_max * one.batch_share))
        return AdmitCallAsk(
            provider=one.name,
            lane=lane,
            call=call,
            lease_ms=lease_ms,
            concurrency_max=one.concurrency_max,
            batch_max=batch,
            request_us=request_us,
            request_burst_us=request_us * burst if request_us else None,
            tokens_us=self._tokens_us(self._reserved(tokens)),
            tokens_burst_us=self._tokens_us(self._tokens_burst()),
        )

    def depart_ask(self, call: str, lane: Lane, tokens: int, used: int | None) -> EndCallAsk:
        """Return what is told of a call that is over and has used so many.

        None: it was not made, so its request is given back, too.
        """
        extra_tokens = (used or 0) - self._reserved(tokens)
        return EndCallAsk(
            provider=self.provider.name,
            lane=lane,
            call=call,
            more_us=self._tokens_us(extra_tokens),
            request_us=self._request_us() if used is None else None,
        )

    def _requests_burst(self) -> int:
        return max(1, (self.provider.requests_per_minute or 0) // _REQUESTS_BURST)

    def _request_us(self) -> int | None:
        """Return the time between two requests, None where any number may be made."""
        per_minute = self.provider.requests_per_minute
        return -(-_MINUTE_US // (per_minute - self._requests_burst() + 1)) if per_minute else None

    def _tokens_burst(self) -> int:
        return max(1, (self.provider.tokens_per_minute or 0) // _TOKENS_BURST)

    def _reserved(self, tokens: int) -> int:
        """A call that is larger than what may come at once waits for all of that."""
        return min(tokens, self._tokens_burst())

    def _tokens_us(self, tokens: int) -> int | None:
        """Return how long a provider takes to allow so many."""
        per_minute = self.provider.tokens_per_minute
        spread = max(1, per_minute - self._tokens_burst()) if per_minute else 0
        return tokens * _MINUTE_US // spread if spread else None
