"""A provider's limits per minute as intervals in microseconds, for the Redis function that counts.

Owns the arithmetic from a limit per minute to the time between two requests. Refuses to count:
Redis does, for all workers.

DESIGN. A provider may begin its minutes at any moment. A tenth of the requests may come as a burst
and the others are spread, so that no minute, whenever it begins, sees more than allowed; of the
tokens a quarter, since one call may need many. Example: 60 requests per minute are a burst of 6,
then one request every 60 / (60 - 6 + 1) = 1.09 s.
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
        """Return the request for room for a call that is estimated to use `tokens`."""
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
        """Return the message that ends a call which used `used` tokens.

        None: the call was not made, so its request is returned, too.
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
        """Return the time between two requests; None without a limit."""
        per_minute = self.provider.requests_per_minute
        return -(-_MINUTE_US // (per_minute - self._requests_burst() + 1)) if per_minute else None

    def _tokens_burst(self) -> int:
        return max(1, (self.provider.tokens_per_minute or 0) // _TOKENS_BURST)

    def _reserved(self, tokens: int) -> int:
        """A call larger than the whole burst waits for the whole burst."""
        return min(tokens, self._tokens_burst())

    def _tokens_us(self, tokens: int) -> int | None:
        """Return how long it takes until a provider has allowed `tokens`; None without a limit."""
        per_minute = self.provider.tokens_per_minute
        spread = max(1, per_minute - self._tokens_burst()) if per_minute else 0
        return tokens * _MINUTE_US // spread if spread else None
