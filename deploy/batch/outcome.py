"""How a batch ended, for a person and as an exit code, and the commands that go on from there."""

import shlex
from pathlib import Path
from typing import Any, Final

import msgspec

from deploy.batch.answers import Answers, Order
from deploy.batch.display import Display, credits_of, printable
from deploy.batch.receive import Receiver
from deploy.batch.wire import Batch
from deploy.output import print_json
from shared.errors import PolluxError

SOME_FAILED: Final = 2


async def follow_to_the_end(receiver: Receiver, answers: Answers, display: Display) -> Batch:
    """Receive all answers; where items were run again, write the file again with their answers."""
    batch = await receiver.follow()
    if batch.has_ended and answers.lacks(batch.counts) and answers.path is not None:
        display.tell(f"{answers.path} has not the answers that there are; it is written again.")
        await receiver.rewrite()
    answers.save()
    return receiver.batch


def report(batch: Batch, answers: Answers, display: Display, *, as_json: bool) -> int:
    """Say how it ended, and return the exit code.

    Raises:
        PolluxError: it is paused, until someone resumes it.

    """
    if as_json:
        print_json(builtins(batch))
    if not batch.has_ended:
        raise PolluxError(paused_sentence(batch))
    counts = batch.counts
    if not counts.unanswered:
        display.tell(f"All {counts.completed:,} prompts are answered, for {credits_of(batch)}.")
        return 0
    unanswered = ", ".join(
        f"{count:,} {name}"
        for name, count in (
            ("failed", counts.failed),
            ("cancelled", counts.cancelled),
            ("expired", counts.expired),
        )
        if count
    )
    display.note(
        f"{counts.completed:,} prompts are answered, {unanswered}, for {credits_of(batch)}."
    )
    for answer in answers.failures:
        name = "" if answer.custom_id == str(answer.line) else f" ({printable(answer.custom_id)})"
        message = answer.failure.message if answer.failure else answer.state
        display.note(f"  line {answer.line}{name}: {printable(message)}")
    display.note(f"  see them:       pollux batch results {batch.batch_id} --state failed")
    # A line that is no valid prompt fails again.
    if counts.failed > batch.invalid:
        display.note(f"  run them again: pollux batch retry {batch.batch_id}")
        again = results_command(batch.batch_id, answers.path, answers.order)
        display.note(f"  and then:       {again}")
    return SOME_FAILED


def paused_sentence(batch: Batch) -> str:
    """Return why a batch is paused, and the command that goes on."""
    resume = f"pollux batch resume {batch.batch_id}"
    if batch.reason == "max_credits":
        used, limit = credits_of(batch), batch.credits.max or batch.credits.used
        return (
            f"Batch {batch.batch_id} is paused at its limit: it has used {used}. "
            f"`{resume} --max-credits {2 * limit:g}` goes on; then run the same command again."
        )
    if batch.reason == "user":
        return (
            f"Batch {batch.batch_id} was paused by request. `{resume}` goes on; then run the same "
            "command again."
        )
    return f"Batch {batch.batch_id} is paused ({batch.reason}). `{resume}` goes on."


def results_command(batch_id: str, path: Path | None, order: Order = "input") -> str:
    """Return the command that writes the answers of a batch until it has ended."""
    name = "answers.jsonl" if path is None else str(path)
    options = ["-o", name, "--wait", *(["--order", order] if order != "input" else [])]
    return shlex.join(["pollux", "batch", "results", batch_id, *options])


def builtins(batch: Batch) -> Any:  # noqa: ANN401  what JSON can say
    """Return a batch as JSON has it."""
    return msgspec.to_builtins(batch)
