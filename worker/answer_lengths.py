"""How long the answers of each model are, so that an attempt can tell how far it has come.

Owns the arithmetic of progress, the counts since the last report, and what the fleet last heard of
each model. Refuses to store anything: the report carries counts there and averages back.
"""

from collections.abc import Mapping
from typing import Final

from shared.routing import price

# Up to this share of the expected length progress grows with the length, from there on ever slower.
_LINEAR_SHARE: Final = 0.95
_PROGRESS_MAX: Final = 99


class AnswerLengths:
    """The lengths of whole answers in bytes, reasoning included, by model."""

    def __init__(self) -> None:
        self._known: Mapping[str, int] = {}
        self._unreported: dict[str, tuple[int, int]] = {}

    def note(self, model: str, length: int) -> None:
        """Count an answer that is whole."""
        count, total = self._unreported.get(model, (0, 0))
        self._unreported[model] = (count + 1, total + length)

    def take_report(self) -> tuple[tuple[str, int, int], ...]:
        """Return model, count and summed length for a report, and count them no more."""
        unreported, self._unreported = self._unreported, {}
        return tuple((model, count, total) for model, (count, total) in unreported.items())

    def update(self, known: Mapping[str, int]) -> None:
        """Learn the averages of the whole fleet."""
        self._known = known

    def expected_bytes(self, model: str, tokens_max: int) -> int:
        """Return how long an answer will be: as others were, or else the longest that may be."""
        longest = tokens_max * price.BYTES_PER_TOKEN
        return max(1, min(longest, self._known.get(model) or longest))


def progress(length: int, expected_bytes: int) -> int:
    """Return how much of an answer is there, 1 to 99, from its length and the expected one.

    It never falls while the length grows; the end, 100, is the settlement's to tell.
    """
    linear_bytes = _LINEAR_SHARE * expected_bytes
    if length <= linear_bytes:
        return max(1, 100 * length // expected_bytes)
    return int(_PROGRESS_MAX - (_PROGRESS_MAX - 100 * _LINEAR_SHARE) * linear_bytes / length)
