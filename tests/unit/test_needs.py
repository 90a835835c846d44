"""What a request needs, and which models are excluded by it: each row of the table is met."""

import pytest

from shared.routing import needs as table
from shared.routing.choose import RoutingQuery, choose
from shared.routing.needs import Need, first_lack, needs
from shared.search_settings import SearchSettings
from shared.settings import Dialect, ModelSettings
from shared.wire.conversation import AnswerForm, Sampling, ToolChoice, ToolDefinition
from shared.wire.submission import Features, Submission

_SEARCH = SearchSettings()
_TOOL = ToolDefinition(name="clock")


def _model(upstream: str, *, refuses: tuple[str, ...] = ()) -> ModelSettings:
    return ModelSettings(
        identifier="m",
        provider="p",
        upstream=upstream,
        capabilities=("json", "tools", "reasoning", "web_search"),
        refuses=refuses,  # type: ignore[arg-type]  # words of the settings
    )


@pytest.mark.parametrize(
    ("submission", "expected"),
    [
        (Submission(session="s"), ()),
        (Submission(session="s", sampling=Sampling(temperature=0.0)), ("temperature",)),
        (
            Submission(session="s", sampling=Sampling(temperature=1.5)),
            ("temperature", "temperature_above_1"),
        ),
        (Submission(session="s", sampling=Sampling(top_p=0.5, stop=("x",))), ("top_p", "stop")),
        (Submission(session="s", sampling=Sampling(stop=("\n",))), ("stop", "stop_blank")),
        (Submission(session="s", form=AnswerForm(kind="json_object")), ("json_object",)),
        (
            Submission(session="s", form=AnswerForm(kind="json_schema", name="n")),
            ("json_schema",),
        ),
        (Submission(session="s", tools=(_TOOL,)), ("tools",)),
        (
            Submission(session="s", tools=(_TOOL,), tool_choice=ToolChoice("required")),
            ("tools", "tool_choice"),
        ),
        (
            Submission(session="s", features=Features(deep_think=True, web_search=True)),
            ("reasoning", "web_search"),
        ),
    ],
)
def test_needs_of_a_submission(submission: Submission, expected: tuple[Need, ...]) -> None:
    assert needs(submission, _SEARCH) == expected


@pytest.mark.parametrize(
    ("dialect", "upstream", "needed", "lack"),
    [
        ("openai", "gpt-4o", ("temperature", "top_p", "stop"), None),
        ("openai", "gpt-5-mini", ("temperature",), "temperature"),
        ("openai", "openai/o3", ("stop",), "stop"),
        ("openai", "gpt-oss-120b", ("temperature", "stop"), None),
        ("openai", "grok-4.7", ("temperature",), None),
        ("openai", "grok-4.7", ("stop",), "stop"),
        ("openai", "deepseek-flash", ("reasoning", "temperature"), "temperature"),
        ("anthropic", "claude-haiku-4-5", ("temperature",), None),
        ("anthropic", "claude-haiku-4-5", ("temperature", "top_p"), "top_p"),
        ("anthropic", "claude-haiku-4-5", ("reasoning", "top_p"), "top_p"),
        ("anthropic", "claude-haiku-4-5", ("temperature_above_1",), "temperature_above_1"),
        ("anthropic", "claude-haiku-4-5", ("stop", "stop_blank"), "stop_blank"),
        ("anthropic", "claude-opus-4-7", ("temperature",), "temperature"),
        ("anthropic", "claude-opus-4-1-20250805", ("temperature",), None),
        ("anthropic", "claude-sonnet-5-5", ("top_p",), "top_p"),
        ("anthropic", "claude-sonnet-5-5", ("stop", "json_schema"), None),
        ("anthropic", "claude-sonnet-5-5", ("json_object",), "json_object"),
        ("anthropic", "claude-sonnet-5-5", ("web_search", "json_schema"), "json_schema"),
        ("gemini", "gemini-2.5-flash", ("json_schema", "stop_blank"), None),
        ("gemini", "gemini-2.5-flash", ("tools", "json_schema"), "json_schema"),
        ("gemini", "gemini-3.8-flash", ("tools", "json_schema", "temperature_above_1"), None),
    ],
)
def test_first_lack(
    dialect: Dialect, upstream: str, needed: tuple[Need, ...], lack: Need | None
) -> None:
    assert first_lack(_model(upstream), dialect, needed) == lack


def test_each_row_of_the_table_excludes_some_model() -> None:
    upstreams = ("gpt-5", "grok-4", "claude-sonnet-5", "gemini-2.5-pro", "other")
    for lack in table._TABLE:
        beside = () if lack.beside is None else (lack.beside,)
        assert any(
            first_lack(_model(upstream), lack.dialect, (need, *beside)) == need
            for upstream in upstreams
            for need in lack.needs
        )


def test_a_model_may_refuse_more_than_its_dialect() -> None:
    model = _model("gpt-4o", refuses=("json_schema",))
    assert first_lack(model, "openai", ("json_object",)) is None
    assert first_lack(model, "openai", ("json_schema",)) == "json_schema"


def test_the_reason_stands_in_the_routing() -> None:
    query = RoutingQuery(
        model="auto", input_tokens=3, needs=("temperature",), dialects={"p": "anthropic"}
    )
    routing = choose((_model("claude-opus-4-7"),), query).routing
    assert [each.excluded_by for each in routing.candidates] == ["temperature"]
