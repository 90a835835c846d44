"""What a caller asks for, in no dialect's words, and what may not be asked together.

Owns the rules that hold for every dialect. Knows neither prices nor models.
"""

from shared import egress
from shared.errors import Code, EgressError, RequestError
from shared.wire import submission as submissions
from shared.wire.conversation import (
    DEFAULT_SAMPLING,
    FREE_TEXT,
    AnswerOptions,
    Message,
    find_fault,
    images,
)
from shared.wire.submission import PLAIN, Features, Lane, OnConflict


class Intent(AnswerOptions, frozen=True, kw_only=True):
    """What a caller asks for, checked and without a dialect's words. `budget` in microcredits.

    A `session` that is None is a new one, which `system_prompt` is for, unless `is_sessionless`. An
    explicit `conversation` takes the place of `message`, session and prompt. The end is reported to
    `webhook`, too.
    """

    message: str
    model: str
    session: str | None
    system_prompt: str | None
    enhance_prompt: bool
    lane: Lane
    on_conflict: OnConflict
    budget: int | None
    deadline_seconds: float | None
    metadata: dict[str, str] | None
    project: str | None
    companion: str | None = None
    features: Features = PLAIN
    is_sessionless: bool = False
    conversation: tuple[Message, ...] | None = None
    max_output_tokens: int | None = None
    webhook: str | None = None

    def __post_init__(self) -> None:
        """Refuse what a generation without a session has no place for."""
        if self.is_sessionless and (self.session or self.system_prompt):
            raise ValueError("a generation without a session has no system prompt of a session")
        if self.conversation is not None:
            _check_stands_alone(self)

    @property
    def wire(self) -> int:
        """The oldest form of a submission that says all of it."""
        if self.webhook is not None:
            return submissions.WEBHOOK_WIRE
        is_plain_request = self.sampling == DEFAULT_SAMPLING and self.form == FREE_TEXT
        if self.is_sessionless or self.tools or not is_plain_request:
            return submissions.TURN_WIRE
        return submissions.PLAIN_WIRE if self.features == PLAIN else submissions.FEATURES_WIRE


def _check_stands_alone(intent: Intent) -> None:
    """Refuse what has no place beside an explicit conversation. Raises ValueError."""
    is_alone = intent.is_sessionless and not (intent.message or intent.companion)
    if not is_alone or intent.features.media_urls:
        raise ValueError("an explicit conversation is all that the model reads")


def check_conversation(intent: Intent) -> None:
    """Refuse, by its place, a fault of an explicit conversation or of tools."""
    messages = intent.conversation
    fault = find_fault(messages, intent.tools, intent.tool_choice)
    if fault is not None:
        raise RequestError(fault.sentence, Code.INVALID_FIELDS)
    for place, url in images(messages or ()):
        try:
            egress.parse(url)
        except EgressError as error:
            raise RequestError(
                f"The field `{place}` cannot be taken. {error.message}", Code.INVALID_FIELDS
            ) from None
