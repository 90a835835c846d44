"""Which model was chosen, and why.

DESIGN. Every answer keeps its decision, so it is stored small: values by position, and without the
sentence, which follows from them.
"""

from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

Policy = Literal["requested", "catalogue_order"]


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A model that was considered."""

    model: Annotated[str, Meta(description="The model's identifier.")]
    score: Annotated[float, Meta(description="How well it suits the message, from 0 to 1.")]
    est_credits: Annotated[float, Meta(description="The credits that an answer would cost.")]
    est_seconds: Annotated[float, Meta(description="The seconds that an answer would take.")]
    excluded_by: Annotated[
        str | None, Meta(description="The check that excluded it; null where none did.")
    ] = None


class Routing(msgspec.Struct, frozen=True, kw_only=True):
    """Which model was chosen, by whom, and why."""

    policy: Annotated[
        Policy, Meta(description="`requested` by the caller, or by `catalogue_order`.")
    ]
    chosen: Annotated[str | None, Meta(description="The chosen model's identifier, if any was.")]
    category: Annotated[str, Meta(description="What kind of message it was taken for.")]
    reason: Annotated[str, Meta(description="Why this model answers, in a sentence.")]
    candidates: Annotated[
        tuple[Candidate, ...], Meta(description="The models that were weighed.")
    ] = ()


class StoredRouting(NamedTuple):
    """A decision as an answer's record keeps it: the values of each candidate, in their order."""

    policy: Policy
    chosen: str | None
    category: str
    candidates: tuple[tuple[str, float, float, float, str | None], ...]

    @classmethod
    def of(cls, routing: Routing) -> "StoredRouting":
        """Return the stored form of a decision."""
        candidates = map(msgspec.structs.astuple, routing.candidates)
        return cls(routing.policy, routing.chosen, routing.category, tuple(candidates))

    def restored(self) -> Routing:
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
