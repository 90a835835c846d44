"""Providers as the fleet shares them: breaker, throttle, limits."""

from typing import Final, Literal, NamedTuple

from shared.errors import StoreError
from shared.redis.client import Connection, Reply
from shared.redis.functions.contract import Ask, text_of
from shared.redis.library import invoke, send_call
from shared.wire.submission import Lane

# What `throttled` answers for a provider that is throttled no more.
_NO_LONGER_THROTTLED: Final = -2


class Breaker(NamedTuple):
    """How a circuit's breaker stands; `left_ms` until it is due for a probe, or its lease ends.

    A circuit is a provider's model under one credential; `why` is the category of the failure.
    """

    state: Literal["closed", "open", "probing", "due"]
    left_ms: int = 0
    why: str = ""


def breaker_from(reply: list[Reply]) -> Breaker:
    """Return a breaker as a reply describes it."""
    match [text_of(reply[0]), *reply[1:]]:
        case [("closed" | "open" | "probing" | "due") as state, left, why]:
            return Breaker(state, int(left), text_of(why))
        case _:
            raise StoreError(f"a breaker stands at {reply!r}")


class RecordFailureAsk(Ask, frozen=True, kw_only=True):
    """An upstream's failure at a message, of the category `why`; `chance`, 0 to 1, is for jitter.

    With `at_once_ms` it opens the breaker by itself; with `is_shared` no prompt can cause it, and
    messages of one account open the breaker of all. `answered` calls weigh against it
    that this worker has not reported yet, and `answered_own` of the same account.
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
    """Which circuit a failure counted for, how its breaker stands, whether it was opened now."""

    circuit: str
    breaker: Breaker
    is_new: bool


async def record_failure(redis: Connection, root: str, ask: RecordFailureAsk) -> FailureReply:
    """Count a failure, which may open the breaker of all or of the message's account."""
    circuit, *breaker, is_new = await invoke(redis, "record_failure", root, ask)
    return FailureReply(text_of(circuit), breaker_from(breaker), bool(is_new))


class RecordRefusalAsk(Ask, frozen=True, kw_only=True):
    """A call that a circuit refused because it takes fewer.

    The worker had got `taken` calls through since `taken_ms` ago. `told_ms` is when the provider
    wants to be asked again, if it said so. `is_spent`: nothing was refused, an answer said that no
    calls are left until then. `is_false`: what answers said of that has proved false.
    """

    circuit: str
    taken: int
    taken_ms: int
    retry_after_ms: int | None = None
    is_spent: bool = False
    is_false: bool = False


async def record_refusal(redis: Connection, root: str, ask: RecordRefusalAsk) -> int:
    """Slow the fleet's calls down; return in how many ms the next one may be made."""
    return int(await invoke(redis, "record_refusal", root, ask))


class AdmitThrottledAsk(Ask, frozen=True, kw_only=True):
    """A call to a circuit that is throttled.

    `is_again`: its message was turned away before. `passes_over`: another model is tried instead of
    waiting, so that no time is to be kept for it.
    """

    circuit: str
    lane: Lane
    is_again: bool = False
    passes_over: bool = False


class ThrottleReply(NamedTuple):
    """Whether a call may be made: at once where `wait_ms` is None.

    `is_free` when the circuit is throttled no more.
    """

    wait_ms: int | None
    is_no_longer_throttled: bool = False


async def admit_throttled(redis: Connection, root: str, ask: AdmitThrottledAsk) -> ThrottleReply:
    """Take a call's place at the learned rate, or learn in how many ms there is one."""
    wait = int(await invoke(redis, "admit_throttled", root, ask))
    return (
        ThrottleReply(wait)
        if wait >= 0
        else ThrottleReply(None, is_no_longer_throttled=wait == _NO_LONGER_THROTTLED)
    )


class BeginProbeAsk(Ask, frozen=True, kw_only=True):
    """Which call would try a circuit, and for how long before it must be heard of again."""

    circuit: str
    call: str
    account: str
    lease_ms: int


async def begin_probe(redis: Connection, root: str, ask: BeginProbeAsk) -> Breaker | None:
    """Make a call the circuit's one probe, and return None; else how the breaker stands."""
    reply = await invoke(redis, "begin_probe", root, ask)
    return None if reply[0] == b"granted" else breaker_from(reply)


class EndProbeAsk(Ask, frozen=True, kw_only=True):
    """What a probe came to: the provider `is_well`, or nothing was learnt."""

    circuit: str
    call: str
    is_well: bool


def end_probe(redis: Connection, root: str, ask: EndProbeAsk) -> None:
    """Close the breaker, or let another probe; its lease would end it, too, but later."""
    send_call(redis, "end_probe", root, ask)


class AdmitCallAsk(Ask, frozen=True, kw_only=True):
    """A call to a provider with limits, those that it has; rates as microseconds, for GCRA."""

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
    """Take room for a call, and return None; else in how many ms there may be some, 0: unknown."""
    word, *wait = await invoke(redis, "admit_call", root, ask)
    return None if word == b"admitted" else int(wait[0])


class EndCallAsk(Ask, frozen=True, kw_only=True):
    """A call that is over; `more_us` is what it took beyond what was reserved, in tokens' time.

    `request_us` is the time of the request that one took that was not made.
    """

    provider: str
    lane: Lane
    call: str
    more_us: int | None = None
    request_us: int | None = None


def end_call(redis: Connection, root: str, ask: EndCallAsk) -> None:
    """Give a call's room back; its lease would end, too, but later."""
    send_call(redis, "end_call", root, ask)
