"""Reads the conversation so far: the companion's persona, the system prompt, completed turns.

Failed and cancelled turns stay in the list that the user sees but are not sent to a model, nor are
turns whose answer has no text. Only text is sent: neither media nor reasoning. A generation without
a session has no history.
"""

from shared.routing import price
from shared.stores import sessions
from shared.telemetry import logs
from shared.wire.message import BYTES_PER_TOKEN
from worker.providers.contract import text_message
from worker.run import Run

_PERSONA_AND_PROMPT = "\n\n"


async def load_history(run: Run) -> None:
    """Fill `run.system_prompt` and `run.history`, oldest first."""
    parts = (_persona(run), run.claimed.system_prompt)
    run.system_prompt = _PERSONA_AND_PROMPT.join(part for part in parts if part) or None
    if run.submission.session is None:
        return
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
            text_message("user", turn.user.content),
            text_message("assistant", turn.assistant.content),
        )
    ]
    run.history_tokens = sum(price.tokens_in(message.text) for message in run.history)
    run.is_history_whole = turns.is_whole


def _bytes_max(run: Run) -> int:
    """Return the bytes of history that can fit the largest context window at the most."""
    windows = (model.context_window for model in run.dependencies.registry.models)
    return BYTES_PER_TOKEN * max(windows, default=0)


def _persona(run: Run) -> str | None:
    """Return the persona of the turn's companion, else of the session's companion."""
    name = run.submission.companion or run.claimed.companion
    if name is None:
        return None
    companion = run.dependencies.settings.companion(name)
    if companion is None:
        logs.logger().warning("unknown companion", companion=name)
        return None
    return companion.persona
