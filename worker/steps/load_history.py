"""Read the conversation so far: who answers, the system prompt, the turns that were completed.

Turns that failed or were cancelled stay in the list a person sees and are not sent to a model, nor
are those that were answered without a word. A model is sent text: neither media nor reasoning.
"""

from shared.routing import price
from shared.stores import sessions
from shared.telemetry import logs
from worker.providers.contract import ChatMessage
from worker.run import Run

_PERSONA_AND_PROMPT = "\n\n"


async def load_history(run: Run) -> None:
    """Fill `run.system_prompt` and `run.history`, oldest first."""
    parts = (_persona(run), run.claimed.system_prompt)
    run.system_prompt = _PERSONA_AND_PROMPT.join(part for part in parts if part) or None
    turns = await sessions.history(
        run.dependencies.redis,
        run.claimed.root,
        run.claimed.account,
        run.submission.session,
        run.claimed.turn,
        bytes_max=_bytes_max(run),
    )
    run.history = [
        message
        for turn in turns
        if turn.assistant is not None and turn.assistant.content
        for message in (
            ChatMessage("user", turn.user.content),
            ChatMessage("assistant", turn.assistant.content),
        )
    ]
    run.history_tokens = sum(price.tokens_in(message.content) for message in run.history)
    run.is_history_whole = turns.is_whole


def _bytes_max(run: Run) -> int:
    """Return what the largest window holds of what was said, if that takes the least it may."""
    windows = (model.context_window for model in run.dependencies.registry.models)
    return price.BYTES_PER_TOKEN * max(windows, default=0)


def _persona(run: Run) -> str | None:
    """Return how the turn's companion speaks: its own, else the session's."""
    name = run.submission.companion or run.claimed.companion
    if name is None:
        return None
    companion = run.dependencies.settings.companion(name)
    if companion is None:
        logs.logger().warning("unknown companion", companion=name)
        return None
    return companion.persona
