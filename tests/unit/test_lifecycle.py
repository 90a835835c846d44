"""The table of stages: which may follow which, and the states that callers see."""

from typing import get_args

from shared.lifecycle import ENDS, TRANSITIONS, WAITING, Stage, State, may_follow, state_of


def test_the_table_has_every_stage_and_no_other() -> None:
    stages = set(get_args(Stage))
    assert set(TRANSITIONS) == stages
    assert set().union(*TRANSITIONS.values()) <= stages


def test_nothing_follows_an_end_and_every_stage_reaches_one() -> None:
    assert {stage for stage, following in TRANSITIONS.items() if not following} == ENDS
    for stage in TRANSITIONS:
        reached, edge = {stage}, {stage}
        while edge:
            edge = set().union(*(TRANSITIONS[one] for one in edge)) - reached
            reached |= edge
        assert reached & ENDS


def test_only_waiting_stages_are_claimed_and_only_generating_completes() -> None:
    assert {stage for stage in TRANSITIONS if may_follow(stage, "routing")} == WAITING
    assert {stage for stage in TRANSITIONS if may_follow(stage, "completed")} == {"generating"}


def test_every_unfinished_stage_may_fail_or_be_cancelled() -> None:
    for stage in set(TRANSITIONS) - ENDS:
        assert may_follow(stage, "failed")
        assert may_follow(stage, "cancelled")


def test_callers_see_processing_until_the_end() -> None:
    assert {state_of(stage) for stage in TRANSITIONS} == set(get_args(State))
    for stage in TRANSITIONS:
        assert (state_of(stage) == "processing") == (stage not in ENDS)
