"""The settings tables below `[limits]`: what an account of each tier may do, and bounds for all."""

from typing import Annotated, Final, Literal

from msgspec import Meta

from shared.settings_types import Positive, Seconds, Section, Share

# A character beyond U+FFFF takes two JSON escapes, as in \ud83c\udf0d.
_BYTES_PER_CHARACTER_MAX: Final = 12
# Metadata, media URLs and the other fields beside the texts.
_OTHER_FIELDS_BYTES: Final = 262_144

TierName = Literal["free", "pro", "enterprise"]


class Tier(Section, frozen=True, kw_only=True):
    """What an account of a tier may do.

    `weight` is the account's share where accounts compete: weight 4 is served four times as often
    as weight 1. The quotas on sessions, stored bytes and API keys free up when something is
    deleted, that on open batches also when one ends. The answer to an accepted message is stored
    even beyond them, and operators may create keys beyond them.

    The last four hold in each API process. Where they are not set, an account may read and cancel
    10 times for each submission that it is allowed, and at least `api.reads_per_minute` times, plus
    `api.reads_per_unfinished` for each unfinished generation. Twice its submissions may be refused
    a minute, and as many repeated, at least 60. It may have as many streams and waits open as
    generations running, and at least `api.waits_per_account`.
    """

    submissions_per_minute: Positive
    unfinished_max: Positive = 10_000
    running_max: Positive = 1_000
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1
    sessions_max: Positive = 100_000
    stored_bytes_max: Positive = 5_000_000_000
    keys_max: Positive = 100
    open_batches_max: Positive = 50
    batch_items_max: Positive = 100_000
    reads_per_minute: Positive | None = None
    cancels_per_minute: Positive | None = None
    refused_per_minute: Positive | None = None
    waits_max: Positive | None = None


class LimitSettings(Section, frozen=True, kw_only=True):
    """Bounds that the accepting Redis function checks."""

    free: Tier = Tier(
        submissions_per_minute=10,
        unfinished_max=1_000,
        running_max=10,
        sessions_max=1_000,
        stored_bytes_max=50_000_000,
        keys_max=10,
        open_batches_max=2,
        batch_items_max=1_000,
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
        open_batches_max=500,
        batch_items_max=1_000_000,
    )
    unfinished_total: Positive = 1_000_000
    # Turns that may wait in a session; an interrupt or a delete ends them all in one call.
    waiting_per_session: Positive = 250
    # Shares of the server's memory beyond which batches, the free tier, and then everybody is
    # refused.
    memory_share_max_batch: Share = 0.7
    memory_share_max_free: Share = 0.8
    memory_share_max: Share = 0.9
    message_characters_max: Positive = 200_000
    # Of a batch's body, unpacked; one in JSON, whose items may stand anywhere, is at most 32 MiB.
    batch_bytes_max: Positive = 1_000_000_000
    interactive_deadline_seconds: Seconds = 900.0
    batch_deadline_seconds: Seconds = 86_400.0
    deadline_seconds_max: Seconds = 604_800.0

    @property
    def submission_bytes_max(self) -> int:
        """The size of the largest body whose texts are within the limit, all characters escaped."""
        return 2 * self.message_characters_max * _BYTES_PER_CHARACTER_MAX + _OTHER_FIELDS_BYTES

    def of(self, tier: TierName) -> Tier:
        """Return the limits of a tier."""
        return {"free": self.free, "pro": self.pro, "enterprise": self.enterprise}[tier]
