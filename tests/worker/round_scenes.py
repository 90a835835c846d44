"""A model that calls two tools, one of which must not run twice, and what must hold at the end."""

from collections import Counter
from typing import Final

from shared.wire import event as events
from tests.support.scripted_provider import Request, ScriptedAnswer
from tests.worker.front import GRANT, Front, Ticket, text_of
from tests.worker.scripted_tools import ScriptedTool
from tests.worker.single_attempts import Attempts
from worker.tools.registry import ToolRegistry

TEXT: Final = "Let me look.\n\nIt rains."
CALLS: Final = (
    ("call-1", "weather", '{"city": "Bonn"}'),
    ("call-2", "order", '{"what": "umbrella"}'),
)


class ToolScene:
    """A tool that may run twice, and one that must not, both offered."""

    def __init__(self, attempts: Attempts) -> None:
        attempts.change_models(capabilities=("tools", "json"))
        self.weather = ScriptedTool("weather")
        self.order = ScriptedTool("order", is_repeatable=False)
        attempts.tools = ToolRegistry([self.weather, self.order])


def calls_then_answer(request: Request) -> ScriptedAnswer:
    """Call the tools first, and answer once their results are there."""
    if request.messages[-1]["role"] == "tool":
        return ScriptedAnswer(text="It rains.")
    return ScriptedAnswer(text="Let me look.", calls=CALLS)


async def check_whole(front: Front, ticket: Ticket) -> None:
    """Check the one end: its text, its results and its charge, as everybody sees them."""
    ended, stream = await front.poll(ticket), await front.stream_events(ticket)
    assert (ended.stage, ended.text) == ("completed", TEXT)
    assert text_of(stream) == TEXT
    message = ended.assistant
    assert message is not None
    assert message.usage is not None
    results = Counter(each.call_id for each in message.rounds if each.role == "tool")
    assert results == Counter({"call-1": 1, "call-2": 1})
    assert len(message.rounds) == 3
    assert ended.captured == message.usage.cost == sum(each.usage.cost for each in message.costs)
    assert len(message.costs) == 2
    credit_totals = await front.credit_totals(ticket.account)
    assert (credit_totals.held, credit_totals.balance) == (0, GRANT - ended.captured)
    assert sum(isinstance(each.event, events.Completed) for each in stream) == 1
    # What the last attempt shows again after its reset is whole.
    last = stream[-1].epoch
    shown = [
        each.event.call_id
        for each in stream
        if each.epoch == last and isinstance(each.event, events.ToolResult)
    ]
    assert sorted(shown) == ["call-1", "call-2"]
