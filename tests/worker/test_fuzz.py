"""A short walk of the fuzz, from another place each time, and the plain reading's own test."""

import random

import pytest

from tests.worker import fuzz
from tests.worker.providers.dialects import DIALECTS
from worker.providers.contract import Ended, Part, Text, Used


@pytest.mark.timeout(90)
async def test_adapter_agrees_with_a_plain_reading_of_mutated_streams() -> None:
    seed = random.randrange(2**32)
    assert [different async for different in fuzz.differences(seed, 2_000)] == []


def test_plain_reading_reads_what_it_should() -> None:
    dialect = DIALECTS[0]
    parts: list[Part] = [Text("Two"), Ended("stop"), Used(3, 2)]
    assert fuzz.read(dialect.answer("Two")) == fuzz.Outcome(parts, None)
    assert fuzz.read(dialect.text("Two")) == fuzz.Outcome(parts[:1], "cut")
    assert fuzz.read(dialect.text("Two") + b"data: 5\n\n") == fuzz.Outcome(parts[:1], "malformed")
    assert fuzz.read(dialect.error_event(500, "no")) == fuzz.Outcome([], "told")


def test_inputs_are_of_every_kind() -> None:
    inputs = [fuzz.make(random.Random(number)) for number in range(2_000)]
    outcomes = [fuzz.read(b"".join(each.reads)) for each in inputs]
    assert {outcome.fault for outcome in outcomes} == {None, "cut", "malformed", "told"}
    assert {each.is_cut for each in inputs} == {True, False}
    assert sum(bool(outcome.parts) for outcome in outcomes) > 1_000
