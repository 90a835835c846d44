"""How many connections a process accepts, given its limit on open files."""

import resource

import pytest

from api.server.connections import raise_open_files_limit

_UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "allowed", "raised_to"),
    [
        (1_048_576, 1_048_576, 1_000, None),
        (_UNLIMITED, _UNLIMITED, 1_000, None),
        (1_024, 1_048_576, 1_000, 1_384),
        (1_024, _UNLIMITED, 1_000, 1_384),
        (256, 1_024, 640, 1_024),
        (256, 256, 128, 256),
    ],
)
def test_limit_is_raised_as_far_as_the_hard_limit_allows(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, allowed: int, raised_to: int | None
) -> None:
    made: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: made.append(limits))
    assert raise_open_files_limit(1_000) == allowed
    assert made == ([] if raised_to is None else [(raised_to, hard)])
