"""The settings of tiers and bounds: what follows from others, and what must hold between them."""

from pathlib import Path

from shared.settings import Settings
from tests.unit.test_settings import faults_of, settings_of


def test_bodies_have_room_for_the_longest_message(tmp_path: Path) -> None:
    faults = faults_of(tmp_path, "[api]\nbody_bytes_max = 1048576")
    assert len(faults) == 1
    assert faults[0].startswith("api.body_bytes_max: must be at least 5062144, ")
    assert "limits.message_characters_max" in faults[0]
    shorter = "[api]\nbody_bytes_max = 1048576\n[limits]\nmessage_characters_max = 30000"
    assert settings_of(tmp_path, shorter).api.body_bytes_max == 1_048_576
    assert faults_of(tmp_path, "[limits]\nmessage_characters_max = 300000")
    assert Settings().api.body_bytes_max >= Settings().limits.submission_bytes_max


def test_a_tier_may_set_some_of_its_limits(tmp_path: Path) -> None:
    text = "[limits.free]\nsubmissions_per_minute = 20\nwaits_max = 5"
    free = settings_of(tmp_path, text, POLLUX_LIMITS__FREE__READS_PER_MINUTE="77").limits.free
    assert (free.submissions_per_minute, free.waits_max, free.reads_per_minute) == (20, 5, 77)
    assert free.refused_per_minute is None
