"""Average answer lengths by model, and the progress percentage computed from them.

Owns the progress formula, the lengths counted since the last report, and the fleet's averages.
Refuses to store anything: the worker's report sends counts to Redis and brings averages back.

Example: answers of a model are 4,000 bytes on average. After 2,000 bytes progress is 50, after
3,800 it is 95; beyond that it approaches 99 ever more slowly (97 at 7,600 bytes).
"""

from collections.abc import Mapping
from typing import Final

from shared.wire.message import BYTES_PER_TOKEN

# Up to this share of the expected length, progress is linear; beyond it, it grows ever more slowly.
_LINEAR_SHARE: Final = 0.95
_PROGRESS_MAX: Final = 99


class AnswerLengths:
    """The lengths of complete answers in bytes, reasoning included, by model."""

    def __init__(self) -> None:
        self._known: Mapping[str, int] = {}
        self._unreported: dict[str, tuple[int, int]] = {}

    def note(self, model: str, length: int) -> None:
        """Count a complete answer."""
        count, total = self._unreported.get(model, (0, 0))
        self._unreported[model] = (count + 1, total + length)

    def take_report(self) -> tuple[tuple[str, int, int], ...]:
        """Return (model, count, summed length) for a report, and reset the counts."""
        unreported, self._unreported = self._unreported, {}
        return tuple((model, count, total) for model, (count, total) in unreported.items())

    def update(self, known: Mapping[str, int]) -> None:
        """Store the averages of the whole fleet."""
        self._known = known

    def expected_bytes(self, model: str, tokens_max: int) -> int:
        """Return the expected length: the model's average, or the maximum if none is known."""
        longest = tokens_max * BYTES_PER_TOKEN
        return max(1, min(longest, self._known.get(model) or longest))


def progress(length: int, expected_bytes: int) -> int:
    """Return an answer's progress in percent, 1 to 99, from its length and the expected length.

    It never falls while the length grows; only the settlement sets 100.
    """
    linear_bytes = _LINEAR_SHARE * expected_bytes
    if length <= linear_bytes:
        return max(1, 100 * length // expected_bytes)
    return int(_PROGRESS_MAX - (_PROGRESS_MAX - 100 * _LINEAR_SHARE) * linear_bytes / length)
