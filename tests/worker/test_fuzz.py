"""A short walk of the fuzz, from another place each time, and the plain readings' own test."""

import random

import pytest

from shared.wire.conversation import CallPart
from shared.wire.message import Citation
from tests.worker.fuzz import types
from tests.worker.fuzz.comparison import FUZZ_DIALECTS, differences, expected, make
from tests.worker.fuzz.reading import Outcome
from tests.worker.providers.dialect_row import Dialect
from tests.worker.providers.dialects import DIALECTS
from worker.providers.contract import Ended, GeneratedMedia, Part, Reasoning, ReportedUsage, Text

# One in so many of the fields and values.
_SHARE = 5
_of_every_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)


def test_every_dialect_is_fuzzed() -> None:
    assert set(FUZZ_DIALECTS) == {dialect.name for dialect in DIALECTS}


@pytest.mark.timeout(90)
@_of_every_dialect
async def test_adapter_agrees_with_a_plain_reading_of_mutated_streams(dialect: Dialect) -> None:
    seed = random.randrange(2**32)
    assert [different async for different in differences(dialect.name, seed, 1_500)] == []


@pytest.mark.timeout(90)
@_of_every_dialect
async def test_answer_is_not_lost_by_a_field_of_another_type(dialect: Dialect) -> None:
    start = random.randrange(_SHARE)
    assert [loss async for loss in types.losses(dialect.name, _SHARE, start)] == []


@_of_every_dialect
def test_most_fields_are_no_part_of_the_text(dialect: Dialect) -> None:
    paths = {path for path, *_ in types.mutants(dialect.name)}
    free = {path for path in paths if types.is_free(dialect.name, path)}
    assert len(free) > len(paths) / 3
    assert any(path[-1] in {"usage", "usageMetadata"} for path in free)


@_of_every_dialect
def test_plain_reading_reads_what_it_should(dialect: Dialect) -> None:
    def read(data: bytes) -> Outcome:
        return expected(dialect.name, data)

    parts: list[Part] = [Text("Two"), Ended("stop"), ReportedUsage(3, 2)]
    assert read(dialect.answer("Two")) == Outcome(parts, None)
    assert read(dialect.text("Two")) == Outcome(parts[:1], "cut")
    assert read(dialect.text("Two") + b"data: 5\n\n") == Outcome(parts[:1], "cut")
    broken = b'data: {"content": "be\n\n'
    assert read(dialect.text("Two") + broken) == Outcome(parts[:1], "malformed")
    assert read(dialect.error_event(500, "no")) == Outcome([], "told")
    told: list[Part] = [Reasoning("hm"), CallPart("a", "f", '{"n": [1]}'), Ended("tool_calls")]
    called = dialect.reasoning("hm") + dialect.call("a", "f", ['{"n": ', "[1]}"], 1)
    assert read(dialect.calling(called)) == Outcome([*told, ReportedUsage(3, 2)], None)


@_of_every_dialect
def test_inputs_are_of_every_kind(dialect: Dialect) -> None:
    inputs = [make(dialect.name, random.Random(number)) for number in range(2_000)]
    outcomes = [expected(dialect.name, b"".join(each.reads)) for each in inputs]
    assert {outcome.fault for outcome in outcomes} == {None, "cut", "malformed", "told"}
    assert {each.is_cut for each in inputs} == {True, False}
    assert sum(bool(outcome.parts) for outcome in outcomes) > 1_000
    called = [part for outcome in outcomes for part in outcome.parts if isinstance(part, CallPart)]
    assert len(called) > 100
    made = [
        part for outcome in outcomes for part in outcome.parts if isinstance(part, GeneratedMedia)
    ]
    assert dialect.name == "anthropic" or len(made) > 40
    cited = [part for outcome in outcomes for part in outcome.parts if isinstance(part, Citation)]
    assert len(cited) > 100
