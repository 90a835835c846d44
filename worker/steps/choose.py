"""Decide which model answers, among those this worker can reach."""

from shared.errors import Failure
from shared.routing import price
from shared.routing.choose import Question, choose as decide
from shared.wire.event import Routed, StageChanged
from worker.run import Failed, Retry, Run

# Another worker may hold the key that this one lacks; until then the generation waits in the queue.
_ELSEWHERE_SECONDS = 1.0


async def choose(run: Run) -> Failed | Retry | None:
    """Fill `run.model` and `run.routing`; without a model, wait for another worker or fail."""
    registry = run.tools.registry
    tokens = price.tokens_in(run.user.content) + price.tokens_in(run.system_prompt or "")
    question = Question(model=run.submission.model, input_tokens=tokens, served=registry.served)
    run.routing, run.model = decide(run.tools.settings.models, question)
    if run.model is not None:
        run.writer.say(Routed(run.routing))
        run.writer.say(StageChanged("generating"), stage="generating")
        return None
    if any(candidate.excluded_by == "unavailable" for candidate in run.routing.candidates):
        return Retry(_ELSEWHERE_SECONDS)
    if run.routing.candidates:
        return Failed(_NOTHING_FITS)
    return Failed(_NO_SUCH_MODEL)


_NOTHING_FITS = Failure(
    message="The message is longer than any model's context window.",
    category="invalid_request",
    code="CONTEXT_TOO_LONG",
)
_NO_SUCH_MODEL = Failure(
    message="The model is no longer in the catalogue.",
    category="invalid_request",
    code="MODEL_NOT_FOUND",
)
