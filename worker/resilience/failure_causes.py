"""The table of failed calls: whose fault, what it closes for others, what follows for its message.

Pure: `circuit_breaker` carries out what a failure closes, `retry_policy` what its message does.
`providers/failures` decides which failure an upstream's response is.

Whose fault it is decides everything else:

request      This one message is refused: flagged content, too long, malformed, too expensive for
             the remaining credit. Other messages may be fine, so nothing is closed, and a retry is
             useless.
model        The upstream does not know the model. Nothing is closed: other models work.
credentials  The upstream refuses our key, our account or our bill. Every call fails until an
             operator acts, so the circuit opens at once, for all accounts. An interactive message
             goes to the next model or fails; a batch waits, since it has a day and an operator
             needs an hour.
limit        The upstream accepts fewer calls than we make, and did not accept this one. The fleet
             learns its rate (`throttles`), and the message waits.
network      The upstream cannot be reached, or is overloaded, before it accepted the call. No
             prompt causes that, so failures of one account count for all. The message waits.
provider     The upstream accepted the call and failed. A prompt may cause that: the circuit opens
             only when messages of several accounts fail; messages of one account open that
             account's circuit. The message is retried, up to a number of calls.
answer       The answer is useless: empty, or malformed by the model. That says nothing about the
             upstream's health; the model may do better if called again at once.
"""

from typing import Final, Literal, NamedTuple

from shared.errors import Failure

FaultKind = Literal["request", "model", "credentials", "limit", "network", "provider", "answer"]


class FailureCause(NamedTuple):
    """What follows from a fault.

    `closes` is what it counts towards: nothing; the circuit, which opens `at_once` or after several
    failures; or the throttle. `is_shared`: no prompt can cause it, so the failures of one account
    count for all. `is_accepted`: the upstream accepted the call, so it counts as one of the turn's
    calls. `waits`: the message waits in the queue until its deadline. `passes_over`: the next model
    of the route may answer instead.
    """

    fault: FaultKind
    closes: Literal["nothing", "circuit", "throttle"]
    at_once: bool = False
    is_shared: bool = False
    is_accepted: bool = True
    waits: bool = False
    passes_over: bool = True


CAUSES: Final[dict[FaultKind, FailureCause]] = {
    "request": FailureCause("request", "nothing", passes_over=False),
    "model": FailureCause("model", "nothing"),
    "credentials": FailureCause(
        "credentials", "circuit", at_once=True, is_shared=True, is_accepted=False
    ),
    "limit": FailureCause("limit", "throttle", is_accepted=False, waits=True),
    "network": FailureCause("network", "circuit", is_shared=True, is_accepted=False, waits=True),
    "provider": FailureCause("provider", "circuit", waits=True),
    "answer": FailureCause("answer", "nothing"),
}

# By the code of a failure, where the code is more exact than its category.
_BY_CODE: Final[dict[str, FaultKind]] = {
    "UNKNOWN_UPSTREAM_MODEL": "model",
    # This message is too expensive for the deployment's remaining credit; a smaller one is not.
    "REQUEST_UNAFFORDABLE": "model",
    "PROVIDER_OVERLOADED": "network",
    "PROVIDER_CONFLICT": "network",
    "CONNECT_FAILED": "network",
    "CONNECT_TIMEOUT": "network",
    "EMPTY_ANSWER": "answer",
    "RESPONSE_TOO_LARGE": "answer",
}
_BY_CATEGORY: Final[dict[str, FaultKind]] = {
    "rate_limit": "limit",
    "auth": "credentials",
    "overloaded": "network",
    "timeout": "provider",
    "provider_error": "provider",
}


def cause_of(failure: Failure) -> FailureCause:
    """Return what follows from a failure; one in no table is the request's fault."""
    fault = _BY_CODE.get(failure.code) or _BY_CATEGORY.get(failure.category, "request")
    return CAUSES[fault]
