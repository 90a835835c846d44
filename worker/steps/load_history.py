"""Reads the conversation so far: the companion's persona, the system prompt, completed turns.

Failed and cancelled turns stay in the list that the user sees but are not sent to a model, nor are
turns whose answer has no text. Neither media nor reasoning is sent. The calls of tools in a turn
and their results are, where they are whole; records of older versions have none. A generation
without a session has no history.
"""

from shared.stores import sessions
from shared.telemetry import logs
from shared.wire.conversation import Message, TextPart, find_fault
from shared.wire.message import BYTES_PER_TOKEN, AssistantMessage, UserMessage
from worker.providers.contract import ChatMessage, Turn, text_message
from worker.run import Run
from worker.steps.truncate_history import tokens_of

_PERSONA_AND_PROMPT = "\n\n"
_GO_ON = Message(role="user", parts=(TextPart("."),))


async def load_history(run: Run) -> None:
    """Fill `run.system_prompt` and `run.history`, oldest first."""
    if run.submission.conversation is not None:
        return
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
        _turn(turn.user, turn.assistant)
        for turn in turns
        if turn.assistant is not None and turn.assistant.content
    ]
    run.history_tokens = sum(map(tokens_of, run.history))
    run.is_history_whole = turns.is_whole


def _turn(user: UserMessage, assistant: AssistantMessage) -> Turn:
    """Return a turn's messages. Calls without a result are left out, with all of their rounds."""
    asked = text_message("user", user.content)
    if not assistant.rounds or find_fault([*assistant.rounds, _GO_ON]) is not None:
        return asked, text_message("assistant", assistant.content)
    # `content` has the text of the rounds, too.
    texts = (part.text for part in assistant.parts if isinstance(part, TextPart))
    rounds = [ChatMessage.of(message, {}) for message in assistant.rounds]
    text = "".join(texts)
    # An answer that was cut off before its last round has no text there, which some refuse.
    return asked, *rounds, *([text_message("assistant", text)] if text.strip() else ())


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
