"""The parts of the present round's answer, in the order in which the model wrote them."""

from shared.wire.conversation import Part, TextPart
from worker.run import Run


def own_parts(run: Run) -> tuple[Part, ...]:
    """Return the text and what the model wrote beside it; earlier rounds are no part of it."""
    text, start = run.writer.text(), run.text_start
    parts: list[Part] = []
    for at, part in run.parts:
        if at > start:
            parts.append(TextPart(text[start:at]))
            start = at
        parts.append(part)
    if len(text) > start:
        parts.append(TextPart(text[start:]))
    return tuple(parts)
