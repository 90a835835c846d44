"""Optional arguments of `RedisFunctions.accept` and `RedisFunctions.dead`, for tests."""

from typing import TypedDict

from shared.redis.functions import KeepTimes
from shared.wire.submission import Lane, OnConflict


class AcceptOptions(TypedDict, total=False):
    """Arguments of `accept` beside the account and the session."""

    generation: str
    content: str
    lane: Lane
    model: str
    hold: int
    deadline_ms: int
    wire: int
    per_minute: int
    unfinished_max: int
    waiting_max: int
    running_max: int
    stride: int
    total_max: int
    slots: int
    rounds_max: int
    sessions_max: int
    stored_bytes_max: int
    on_conflict: OnConflict
    name: str
    system_prompt: str
    companion: str
    metadata: dict[str, str]
    idempotency: str
    fingerprint: str
    idempotency_ms: int
    input_price: float
    history_max: int
    added: int
    webhook: str | None


class DeadListOptions(TypedDict, total=False):
    """Which page of the dead letters to list."""

    keep: KeepTimes
    after_ms: int
    after: str
    since_ms: int
    until_ms: int
