"""Read the conversation so far: the system prompt and the turns that were completed.

Turns that failed or were cancelled stay in the list a person sees and are not sent to a model, nor
are those that were answered without a word. A model is sent text: neither media nor reasoning.
"""

from shared.stores import sessions
from worker.providers.contract import ChatMessage
from worker.run import Run


async def recall(run: Run) -> None:
    """Fill `run.system_prompt` and `run.history`, oldest first."""
    run.system_prompt = run.claimed.system_prompt
    turns = await sessions.history(
        run.tools.redis,
        run.claimed.root,
        run.claimed.account,
        run.submission.session,
        run.claimed.turn,
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
