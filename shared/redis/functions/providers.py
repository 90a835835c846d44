"""What the fleet shares about providers: circuit breaker, throttle, limits."""

from typing import Final, Literal, NamedTuple

from shared.errors import StoreError
from shared.redis.client import Connection, Reply
from shared.redis.functions.contract import Ask, text_of
from shared.redis.library import invoke, send_call
from shared.wire.submission import Lane

# The reply of `admit_throttled` for a circuit that is no longer throttled.
_NO_LONGER_THROTTLED: Final = -2


class Breaker(NamedTuple):
    """A circuit's breaker; `left_ms` until a probe is due, or until the running probe's lease ends.

    A circuit is a provider's model under one credential; `why` is the category of the failure.
    """

    state: Literal["closed", "open", "probing", "due"]
    left_ms: int = 0
    why: str = ""


def breaker_from(reply: list[Reply]) -> Breaker:
    """Return the breaker that a reply describes."""
    match [text_of(reply[0]), *reply[1:]]:
        case [("closed" | "open" | "probing" | "due") as state, left, why]:
            return Breaker(state, int(left), text_of(why))
        case _:
            raise StoreError(f"a breaker stands at {reply!r}")


class RecordFailureAsk(Ask, frozen=True, kw_only=True):
    """An upstream's failure of the category `why` for a message; `chance`, 0 to 1, is for jitter.

    `at_once_ms`: it opens the breaker by itself, for so long. `is_shared`: no prompt can cause it,
    so that messages of one account may open the breaker for all. `answered` counts calls that
    succeeded and that this worker has not reported yet, `answered_own` those of the same account.
    """

    circuit: str
    call: str
    account: str
    message: str
    why: str
    window_ms: int
    failures_min: int
    failures_share: float
    account_min: int
    cooling_ms: int
    cooling_max_ms: int
    chance: float
    is_shared: bool = False
    at_once_ms: int | None = None
    answered: int = 0
    answered_own: int = 0


class FailureReply(NamedTuple):
    """The circuit that the failure counted for, its breaker, and whether it was opened just now."""

    circuit: str
    breaker: Breaker
    is_new: bool


async def record_failure(redis: Connection, root: str, ask: RecordFailureAsk) -> FailureReply:
    """Count a failure, which may open the breaker for all or for the message's account."""
    circuit, *breaker, is_new = await invoke(redis, "record_failure", root, ask)
    return FailureReply(text_of(circuit), breaker_from(breaker), bool(is_new))


class RecordRefusalAsk(Ask, frozen=True, kw_only=True):
    """A call that a circuit refused because it takes fewer.

    The worker made `taken` calls since `taken_ms` ago that were not refused, its busiest time, and
    `minute` calls in the last minute, since `minute_ms` ago. `retry_after_ms` is the
    provider's own, if it sent one. `is_spent`: nothing was refused, but an answer said that no
    calls are left until then. `is_false`: what answers said about that has proved false.
    """

    circuit: str
    taken: int
    taken_ms: int
    minute: int | None = None
    minute_ms: int | None = None
    retry_after_ms: int | None = None
    is_spent: bool = False
    is_false: bool = False


async def record_refusal(redis: Connection, root: str, ask: RecordRefusalAsk) -> int:
    """Slow the fleet's calls down; return in how many ms the next one may be made."""
    return int(await invoke(redis, "record_refusal", root, ask))


class AdmitThrottledAsk(Ask, frozen=True, kw_only=True):
    """A call to a throttled circuit.

    `is_again`: this message was turned away before. `passes_over`: the worker tries another model
    instead of waiting, so no time is reserved.
    """

    circuit: str
    lane: Lane
    is_again: bool = False
    passes_over: bool = False


class ThrottleReply(NamedTuple):
    """Whether a call may be made: at once where `wait_ms` is None."""

    wait_ms: int | None
    is_no_longer_throttled: bool = False


async def admit_throttled(redis: Connection, root: str, ask: AdmitThrottledAsk) -> ThrottleReply:
    """Take a call's place at the learned rate, or return in how many ms to ask again."""
    wait = int(await invoke(redis, "admit_throttled", root, ask))
    return (
        ThrottleReply(wait)
        if wait >= 0
        else ThrottleReply(None, is_no_longer_throttled=wait == _NO_LONGER_THROTTLED)
    )


class BeginProbeAsk(Ask, frozen=True, kw_only=True):
    """The call that would probe a circuit, and the length of its lease."""

    circuit: str
    call: str
    account: str
    lease_ms: int


async def begin_probe(redis: Connection, root: str, ask: BeginProbeAsk) -> Breaker | None:
    """Make a call the circuit's only probe and return None; otherwise return the breaker."""
    reply = await invoke(redis, "begin_probe", root, ask)
    return None if reply[0] == b"granted" else breaker_from(reply)


class EndProbeAsk(Ask, frozen=True, kw_only=True):
    """The result of a probe: the provider `is_well`, or nothing was learned."""

    circuit: str
    call: str
    is_well: bool


def end_probe(redis: Connection, root: str, ask: EndProbeAsk) -> None:
    """Close the breaker, or allow another probe; its lease would end it, too, but later."""
    send_call(redis, "end_probe", root, ask)


class AdmitCallAsk(Ask, frozen=True, kw_only=True):
    """A call to a provider, with the limits that it has; rates are microseconds, for GCRA."""

    provider: str
    lane: Lane
    call: str
    lease_ms: int
    concurrency_max: int | None = None
    batch_max: int | None = None
    request_us: int | None = None
    request_burst_us: int | None = None
    tokens_us: int | None = None
    tokens_burst_us: int | None = None


async def admit_call(redis: Connection, root: str, ask: AdmitCallAsk) -> int | None:
    """Take room for a call and return None; otherwise return in how many ms to ask (0: unknown)."""
    word, *wait = await invoke(redis, "admit_call", root, ask)
    return None if word == b"admitted" else int(wait[0])


class EndCallAsk(Ask, frozen=True, kw_only=True):
    """A call that is over; `more_us` is what it used beyond its reservation, as time of the tokens.

    `request_us` is the time of a reserved request that was not made, to be given back.
    """

    provider: str
    lane: Lane
    call: str
    more_us: int | None = None
    request_us: int | None = None


def end_call(redis: Connection, root: str, ask: EndCallAsk) -> None:
    """Give a call's room back; its lease would end, too, but later."""
    send_call(redis, "end_call", root, ask)
