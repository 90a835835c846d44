"""What accounts may do, by tier, and the bounds that are the same for all of them."""

from typing import Annotated, Final, Literal

from msgspec import Meta

from shared.settings_types import Positive, Seconds, Section, Share

# A character outside of the basic plane is a pair of escapes, as in \ud83c\udf0d.
_BYTES_PER_CHARACTER_MAX: Final = 12
# Metadata, URLs of media, and everything else that stands beside the texts.
_OTHER_FIELDS_BYTES: Final = 262_144

TierName = Literal["free", "pro", "enterprise"]


class Tier(Section, frozen=True, kw_only=True):
    """What an account of a tier may do.

    `weight` is its share where accounts compete: one of weight 4 is served four times as often as
    one of weight 1. Its sessions, the bytes of what they hold, and its API keys have quotas, which
    deleting gives back; an answer to what was accepted is stored even beyond them, and operators
    make keys beyond them.

    The last four hold in each process of the front. Where they are not set, an account may read
    and cancel 10 times for each submission it is allowed, and `api.reads_per_minute` times at
    least; as many more for each generation as `api.reads_per_unfinished` says. Of its submissions
    twice as many as are allowed may be refused a minute, and as many repeated, 60 at least. It may
    have as many streams and waits open as generations running, `api.waits_per_account` at least.
    """

    submissions_per_minute: Positive
    unfinished_max: Positive = 10_000
    running_max: Positive = 1_000
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1
    sessions_max: Positive = 100_000
    stored_bytes_max: Positive = 5_000_000_000
    keys_max: Positive = 100
    reads_per_minute: Positive | None = None
    cancels_per_minute: Positive | None = None
    refused_per_minute: Positive | None = None
    waits_max: Positive | None = None


class LimitSettings(Section, frozen=True, kw_only=True):
    """Bounds that hold in the accepting call itself."""

    free: Tier = Tier(
        submissions_per_minute=10,
        unfinished_max=1_000,
        running_max=10,
        sessions_max=1_000,
        stored_bytes_max=50_000_000,
        keys_max=10,
    )
    pro: Tier = Tier(submissions_per_minute=120, running_max=200, unfinished_max=100_000, weight=4)
    enterprise: Tier = Tier(
        submissions_per_minute=6000,
        unfinished_max=500_000,
        running_max=5_000,
        weight=16,
        sessions_max=5_000_000,
        stored_bytes_max=500_000_000_000,
        keys_max=1_000,
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

    @property
    def submission_bytes_max(self) -> int:
        """The longest body of a submission whose texts are short enough, all of it escaped."""
        return 2 * self.message_characters_max * _BYTES_PER_CHARACTER_MAX + _OTHER_FIELDS_BYTES

    def of(self, tier: TierName) -> Tier:
        """Return what an account of a tier may do."""
        return {"free": self.free, "pro": self.pro, "enterprise": self.enterprise}[tier]
