"""What a test may ask of the desk beside what it must: the optional words of its calls."""

from typing import TypedDict

from shared.redis.functions import KeepTimes
from shared.wire.submission import Lane, OnConflict


class AcceptOptions(TypedDict, total=False):
    """What a test may want of an accept, beside its account and session."""

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


class DeadListOptions(TypedDict, total=False):
    """Which part of the dead letters a test wants."""

    keep: KeepTimes
    after_ms: int
    after: str
    since_ms: int
    until_ms: int
