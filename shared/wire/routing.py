"""Which model was chosen, and why: told before, during and after, never hidden.

DESIGN. Every answer keeps its decision, so it is kept small: by position, and without the sentence,
which can be told again.
"""

from typing import Literal, NamedTuple

import msgspec

Policy = Literal["requested", "catalogue_order"]


class Candidate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model that was weighed. `excluded_by` names the gate that shut it out, or is absent."""

    model: str
    score: float
    est_credits: float
    est_seconds: float
    excluded_by: str | None = None


class Routing(msgspec.Struct, frozen=True, kw_only=True):
    """A decision: `policy` is who chose (caller, or catalogue's order), `chosen` an identifier."""

    policy: Policy
    chosen: str | None
    category: str
    reason: str
    candidates: tuple[Candidate, ...] = ()


class KeptRouting(NamedTuple):
    """A decision as an answer's record keeps it: of a candidate, the values in their order."""

    policy: Policy
    chosen: str | None
    category: str
    candidates: tuple[tuple[str, float, float, float, str | None], ...]

    @classmethod
    def of(cls, routing: Routing) -> "KeptRouting":
        """Keep a decision."""
        candidates = map(msgspec.structs.astuple, routing.candidates)
        return cls(routing.policy, routing.chosen, routing.category, tuple(candidates))

    def told(self) -> Routing:
        """Return the decision as it was."""
        return Routing(
            policy=self.policy,
            chosen=self.chosen,
            category=self.category,
            reason=reason(self.policy, self.chosen),
            candidates=tuple(
                Candidate(
                    model=model,
                    score=score,
                    est_credits=est_credits,
                    est_seconds=est_seconds,
                    excluded_by=excluded_by,
                )
                for model, score, est_credits, est_seconds, excluded_by in self.candidates
            ),
        )


def reason(policy: Policy, chosen: str | None) -> str:
    """Return why this model answers, in a sentence."""
    if chosen is None:
        return "Every candidate was excluded."
    if policy == "requested":
        return f"{chosen} was requested."
    return f"{chosen} is the first model of the catalogue that can answer."
