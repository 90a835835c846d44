"""Which model was chosen, and why: told before, during and after, never hidden."""

from typing import Literal

import msgspec


class Candidate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model that was weighed. `excluded_by` names the gate that shut it out, or is absent."""

    model: str
    score: float
    est_credits: float
    est_seconds: float
    excluded_by: str | None = None


class Routing(msgspec.Struct, frozen=True, kw_only=True):
    """A decision: `policy` is who chose (caller, or catalogue's order), `chosen` an identifier."""

    policy: Literal["requested", "catalogue_order"]
    chosen: str | None
    category: str
    reason: str
    candidates: tuple[Candidate, ...] = ()
