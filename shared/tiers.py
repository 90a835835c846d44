"""What accounts may do, by tier, and the bounds that are the same for all of them."""

from typing import Annotated, Literal

from msgspec import Meta

from shared.sections import Positive, Seconds, Section, Share

TierName = Literal["free", "pro", "enterprise"]


class Tier(Section, frozen=True, kw_only=True):
    """What an account of a tier may do.

    `weight` is its share where accounts compete: one of weight 4 is served four times as often as
    one of weight 1.
    """

    submissions_per_minute: Positive
    unfinished_max: Positive = 10_000
    running_max: Positive = 1_000
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1


class LimitSettings(Section, frozen=True, kw_only=True):
    """Bounds that hold in the accepting call itself."""

    free: Tier = Tier(submissions_per_minute=10, unfinished_max=1_000, running_max=10)
    pro: Tier = Tier(submissions_per_minute=120, running_max=200, unfinished_max=100_000, weight=4)
    enterprise: Tier = Tier(
        submissions_per_minute=6000, unfinished_max=500_000, running_max=5_000, weight=16
    )
    unfinished_total: Positive = 1_000_000
    # Behind the head of a session. Who interrupts or deletes it ends them all in one call.
    waiting_per_session: Positive = 250
    # Of the server's memory: who is turned away beyond it.
    memory_share_max_batch: Share = 0.7
    memory_share_max_free: Share = 0.8
    memory_share_max: Share = 0.9
    message_characters_max: Positive = 200_000
    interactive_deadline_seconds: Seconds = 900.0
    batch_deadline_seconds: Seconds = 86_400.0
    deadline_seconds_max: Seconds = 604_800.0

    def of(self, tier: TierName) -> Tier:
        """Return what an account of a tier may do."""
        return {"free": self.free, "pro": self.pro, "enterprise": self.enterprise}[tier]
