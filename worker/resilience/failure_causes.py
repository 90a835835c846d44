"""Whose fault a failed call is, what it closes for others, and what becomes of its message.

The one table of these rules, with their reasons. Pure: `gate` carries out what a failure closes,
`steps/patience` what its message does. Which failure an upstream's words mean is told by
`providers/failures`.

Whose fault it is decides everything else:

request      This one message is refused: flagged words, too long, malformed, too dear for what is
             left. Another message may be fine, so nothing is closed for anybody, and asking again
             is no use.
model        The upstream does not know the model. Nothing is closed: other models work.
credentials  The upstream refuses our key, our account or our bill. Every call fails until somebody
             acts, so the circuit closes at once, for everybody. A person's message goes to the next
             model or fails; a batch waits, since it has a day and an operator needs an hour.
limit        The upstream takes fewer calls than we make. It took nothing on. The fleet learns how
             many it takes (`throttle`), and the message waits; nothing is wrong with either.
network      The upstream cannot be reached or says that it is overloaded, before it took anything
             on. No prompt causes that, so failures of one account count for all. The message waits.
provider     The upstream took the call on and failed. A prompt may cause that: it closes the
             circuit only when messages of several accounts fail alike; the messages of one account
             close it for that account. The message tries again, so many calls at most.
answer       The answer itself is of no use: empty, malformed by the model. It says nothing about
             the upstream's health; the model may do better when asked again at once.
"""

from typing import Final, Literal, NamedTuple

from shared.errors import Failure

FaultKind = Literal["request", "model", "credentials", "limit", "network", "provider", "answer"]


class FailureCause(NamedTuple):
    """What follows from a fault.

    `closes` is what it counts towards: nothing; the circuit, `at_once` or after several; or its
    throttle. `is_shared`: no prompt can cause it, so one account's
    failures speak for all. `is_taken_on`: the upstream began to work, so that it is one of a turn's
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

# By the code of a failure, where it says more than its category does.
_BY_CODE: Final[dict[str, FaultKind]] = {
    "UNKNOWN_UPSTREAM_MODEL": "model",
    # This message is too dear for what is left of the deployment's money; a smaller one is not.
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
    """Return what follows from a failure; one that is in no table is the request's own."""
    fault = _BY_CODE.get(failure.code) or _BY_CATEGORY.get(failure.category, "request")
    return CAUSES[fault]
