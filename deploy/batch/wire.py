"""What the command line reads of the API's replies about batches; other fields are ignored."""

from typing import Final, Literal

import msgspec

State = Literal["validating", "running", "paused", "completed", "failed", "cancelled", "expired"]
FINAL_STATES: Final = frozenset({"completed", "failed", "cancelled", "expired"})
# The states of an item that has ended.
ItemState = Literal["completed", "failed", "cancelled", "expired"]


class Counts(msgspec.Struct, frozen=True):
    """Items by state."""

    waiting: int = 0
    open: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0

    @property
    def ended(self) -> int:
        """How many items have ended."""
        return self.completed + self.unanswered

    @property
    def unanswered(self) -> int:
        """How many items have ended without an answer."""
        return self.failed + self.cancelled + self.expired


class Credits(msgspec.Struct, frozen=True):
    """What a batch has cost, holds and will have cost, and its limit."""

    used: float = 0.0
    held: float = 0.0
    forecast: float | None = None
    max: float | None = None


class Eta(msgspec.Struct, frozen=True):
    """Seconds until the batch has ended."""

    p50: float
    p90: float


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch at one moment."""

    batch_id: str
    state: State
    reason: str | None = None
    cancelling: bool = False
    total: int = 0
    invalid: int = 0
    counts: Counts = Counts()
    items_per_second: float | None = None
    eta_seconds: Eta | None = None
    credits: Credits = Credits()
    metadata: dict[str, str] | None = None
    created_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    deadline_at: str | None = None
    deleted_at: str | None = None
    poll_interval_hint: float = 2.0

    @property
    def has_ended(self) -> bool:
        """Whether its state is final."""
        return self.state in FINAL_STATES


class BatchPage(msgspec.Struct, frozen=True):
    """A page of the account's batches."""

    batches: list[Batch]


class Fault(msgspec.Struct, frozen=True):
    """A line that is no valid item."""

    line: int
    error: str
    custom_id: str | None = None


class Receipt(msgspec.Struct, frozen=True):
    """The reply to an upload; `errors` are the first of `invalid` lines."""

    batch_id: str
    total: int = 0
    invalid: int = 0
    errors: list[Fault] = []


class Failure(msgspec.Struct, frozen=True):
    """Why an item has no answer."""

    message: str = ""


class Answer(msgspec.Struct, frozen=True):
    """A line of results; `batch_id` is in lines that this command has written."""

    line: int
    state: ItemState
    custom_id: str = ""
    seq: int | None = None
    failure: Failure | None = None
    batch_id: str = ""


class Refusal(msgspec.Struct, frozen=True):
    """The body of an error response."""

    error: str = ""
    invalid: int = 0
    errors: list[Fault] = []


decode_batch: Final = msgspec.json.Decoder(Batch).decode
decode_page: Final = msgspec.json.Decoder(BatchPage).decode
decode_receipt: Final = msgspec.json.Decoder(Receipt).decode
decode_answer: Final = msgspec.json.Decoder(Answer).decode
decode_refusal: Final = msgspec.json.Decoder(Refusal).decode
