"""Builds the request to a model: the conversation as far as it fits, and the longest answer.

Owns how the context window is divided between the two. The longest answer is what the hold pays
for, less what finished rounds have cost. The messages of finished rounds are always sent. An
explicit conversation is sent whole: nothing is added, reworded or left out.
"""

from typing import Final, Literal

from shared.routing import price
from shared.routing.choose import OUTPUT_TOKENS_MIN
from shared.settings import ModelSettings
from shared.wire.conversation import (
    ToolChoice,
    ToolDefinition,
)
from worker.model_call import BuiltRequest
from worker.providers.contract import ChatMessage, ChatRequest
from worker.run import Run
from worker.steps.choose_model import tokens_of_prompt
from worker.steps.search_web import searches_max
from worker.steps.truncate_history import tokens_of, truncate_history

# Rounds with calls of tools in one answer.
ROUNDS_MAX: Final = 16
_NO_TOOL: Final = ToolChoice("none")


def build_request(run: Run, model: ModelSettings, tokens_max: int | None = None) -> BuiltRequest:
    """Return the request, with `tokens_max` tokens of input at most, or as many as fit."""
    if tokens_max is None:
        tokens_max = _input_tokens_max(run, model)
    rounds: list[ChatMessage] = []
    if run.rounds.finished:
        rounds = [ChatMessage.of(message, {}) for message in run.rounds.messages()]
    tools = _tools(run, model)
    extra_tokens = (tokens_of(rounds) if rounds else 0) + price.tokens_in_tools(tools)
    messages = _messages(run, tokens_max - extra_tokens)
    repeated = _repeated(run, messages)
    sent = tokens_of(messages) + extra_tokens
    messages += rounds
    is_held_for = run.submission.holds_history or bool(rounds)
    held_for = sent if is_held_for else tokens_of_prompt(run, run.prompt)
    max_tokens = max(1, min(_answer_tokens(run, model, held_for), model.context_window - sent))
    is_last = len(run.rounds.finished) >= ROUNDS_MAX
    request = ChatRequest(
        model=model,
        messages=messages,
        max_tokens=max_tokens,
        tools=tools,
        tool_choice=_NO_TOOL if is_last else run.submission.tool_choice,
        deep_think=run.submission.features.deep_think,
        web_search=run.searched_by == "model",
        repeated=repeated,
        sampling=run.submission.sampling,
        form=run.submission.form,
        own_texts=_own_texts(run, tools, rounds),
    )
    return BuiltRequest(request, sent, is_trimmable=bool(run.history))


def _messages(run: Run, tokens_max: int) -> list[ChatMessage]:
    """Return the conversation: an explicit one as it stands, or a session's as far as it fits."""
    explicit = run.submission.conversation
    if explicit is not None:
        urls = (url for _, url in run.image_places)
        images = dict(zip(urls, run.images, strict=True))
        return [ChatMessage.of(message, images) for message in explicit]
    return truncate_history(
        run.system_prompt, run.history, run.prompt, tokens_max=tokens_max, images=run.images
    )


def has_room(run: Run, model: ModelSettings) -> bool:
    """Tell whether a model can answer the finished rounds: by its window, and by what is held."""
    sent = build_request(run, model).input_tokens
    least = min(OUTPUT_TOKENS_MIN, model.max_output_tokens, run.submission.max_output_tokens)
    return (
        "tools" in model.capabilities
        and model.context_window - sent >= least
        and price.affordable_tokens(
            model, sent, run.claimed.hold - run.rounds.cost, searches_max(run, model)
        )
        >= least
    )


def _tools(run: Run, model: ModelSettings) -> tuple[ToolDefinition, ...]:
    """Return the tools that a model is offered: the caller's own, or else the deployment's."""
    if run.submission.tools or "tools" not in model.capabilities:
        return run.submission.tools
    offered = run.dependencies.tools.offered(run.submission)
    return tuple(tool.definition for tool in offered.values())


def _own_texts(
    run: Run, tools: tuple[ToolDefinition, ...], rounds: list[ChatMessage]
) -> tuple[str, ...]:
    """Return what the caller has not written: persona, search results, tools and their results."""
    own = (run.system_prompt or "").replace(run.claimed.system_prompt or "\0", "\0").split("\0")
    if not run.submission.tools:
        own += [tool.description for tool in tools]
        own += [message.text for message in rounds if message.role == "tool"]
    return tuple(text for text in own if text)


def _repeated(run: Run, messages: list[ChatMessage]) -> Literal["tools", "system", "history"]:
    """Return how far the next turn's request will begin as this one does.

    Results of a search stand in the system prompt. A history that is cut begins elsewhere in each.
    An explicit conversation usually comes again, with more at its end.
    """
    if run.submission.conversation is not None:
        return "history"
    if run.searched_by == "service":
        return "tools"
    others = 2 if run.system_prompt else 1
    is_whole = run.is_history_whole and len(messages) == sum(map(len, run.history)) + others
    return "history" if is_whole else "system"


def _input_tokens_max(run: Run, model: ModelSettings) -> int:
    """Return how many input tokens may be sent: the window less the room for the answer."""
    if not run.submission.holds_history:
        return model.context_window - _answer_tokens(run, model, tokens_of_prompt(run, run.prompt))
    return model.context_window - min(run.submission.max_output_tokens, model.max_output_tokens)


def _answer_tokens(run: Run, model: ModelSettings, tokens: int) -> int:
    """Return how many tokens of the window to reserve for the answer to `tokens` of input.

    As many as the hold pays for: it may have been made for another model.
    """
    asked = min(run.submission.max_output_tokens, model.max_output_tokens)
    paid = price.affordable_tokens(
        model, tokens, run.claimed.hold - run.rounds.cost, searches_max(run, model)
    )
    return min(asked, paid) if paid >= OUTPUT_TOKENS_MIN else asked
