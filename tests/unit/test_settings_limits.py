"""The limits of tiers: their defaults, and what must hold between them."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from shared.settings import Settings
from shared.settings_types import Section
from shared.tiers import LimitSettings, TierName
from shared.wire.account import TIERS
from tests.unit.test_settings import faults_of, settings_of


def test_the_body_limit_fits_the_longest_message(tmp_path: Path) -> None:
    faults = faults_of(tmp_path, "[api]\nbody_bytes_max = 1048576")
    assert len(faults) == 1
    assert faults[0].startswith("api.body_bytes_max: must be at least 5062144, ")
    assert "limits.message_characters_max" in faults[0]
    shorter = "[api]\nbody_bytes_max = 1048576\n[limits]\nmessage_characters_max = 30000"
    assert settings_of(tmp_path, shorter).api.body_bytes_max == 1_048_576
    assert faults_of(tmp_path, "[limits]\nmessage_characters_max = 300000")
    assert Settings().api.body_bytes_max >= Settings().limits.submission_bytes_max


def test_a_tier_may_set_only_some_of_its_limits(tmp_path: Path) -> None:
    text = "[limits.free]\nsubmissions_per_minute = 20\nwaits_max = 5"
    free = settings_of(tmp_path, text, POLLUX_LIMITS__FREE__READS_PER_MINUTE="77").limits.free
    assert (free.submissions_per_minute, free.waits_max, free.reads_per_minute) == (20, 5, 77)
    assert free.refused_per_minute is None


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_given_in_part_keeps_its_own_defaults(tmp_path: Path, tier: TierName) -> None:
    own = LimitSettings().of(tier)
    by_file = settings_of(tmp_path, f"[limits.{tier}]\nrunning_max = 7\nweight = 3").limits
    assert by_file.of(tier) == msgspec.structs.replace(own, running_max=7, weight=3)
    name = f"POLLUX_LIMITS__{tier.upper()}__SUBMISSIONS_PER_MINUTE"
    by_variable = settings_of(tmp_path, "", **{name: "33"}).limits
    assert by_variable.of(tier) == msgspec.structs.replace(own, submissions_per_minute=33)
    both = settings_of(tmp_path, f"[limits.{tier}]\nweight = 3", **{name: "33"}).limits
    assert both.of(tier) == msgspec.structs.replace(own, weight=3, submissions_per_minute=33)
    for other in TIERS:
        if other != tier:
            assert by_file.of(other) == by_variable.of(other) == LimitSettings().of(other)


def test_an_empty_table_has_the_defaults(tmp_path: Path) -> None:
    names = [name for name, value in _sections(Settings()) if value.__struct_fields__]
    text = "".join(f"[{name}]\n" for name in names)
    assert {"limits.free", "limits.enterprise", "redis"} <= set(names)
    assert settings_of(tmp_path, text) == Settings()


def _sections(settings: Section, path: str = "") -> Iterator[tuple[str, Section]]:
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if isinstance(value, Section):
            yield f"{path}{name}", value
            yield from _sections(value, f"{path}{name}.")
