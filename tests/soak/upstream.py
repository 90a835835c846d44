"""The script of the two models: the question and some words, with a fault now and then.

Owns the shares of the faults. `alpha` can be away as a whole; `beta`, its fallback, never is. Every
answer starts with its question and ends with the same word, so that an incomplete one is noticed.
"""

import random
from typing import Final

from shared.settings import ModelSettings, ProviderSettings
from tests.soak.clients import LAST_WORD
from tests.support.scripted_provider import Request, ScriptedAnswer

_WORDS: Final = (3, 25)
_GAP_SECONDS: Final = (0.005, 0.05)
_CUT_BYTES: Final = (100, 3_000)


class Upstream:
    """The script of the upstream."""

    def __init__(self, seed: int) -> None:
        self.is_away = False
        self._chance = random.Random(seed)

    def answer(self, request: Request) -> ScriptedAnswer:
        """Return the answer to a request."""
        if self.is_away and request.body["model"] == "alpha":
            return ScriptedAnswer(status=503)
        words = " ".join(f"word{n}" for n in range(self._chance.randint(*_WORDS)))
        text = f"[{request.last}] {words} {LAST_WORD}"
        gap = self._chance.uniform(*_GAP_SECONDS)
        match self._chance.random():
            case share if share < 0.02:
                return ScriptedAnswer(status=500)
            case share if share < 0.03:
                return ScriptedAnswer(status=429, headers={"retry-after": "1"})
            case share if share < 0.04:
                return ScriptedAnswer(text=text, gap_seconds=gap, is_malformed=True)
            case share if share < 0.05:
                return ScriptedAnswer(
                    text=text, gap_seconds=gap, cut_bytes=self._chance.randint(*_CUT_BYTES)
                )
            case _:
                return ScriptedAnswer(text=text, gap_seconds=gap)


def providers(url: str) -> tuple[ProviderSettings, ...]:
    """Return two providers with one model each."""
    return tuple(ProviderSettings(name=name, base_url=url) for name in ("first", "second"))


def models() -> tuple[ModelSettings, ...]:
    """Return both models; a message that names none goes to the stronger one that works."""
    return tuple(
        ModelSettings(
            identifier=name,
            provider=provider,
            upstream=name,
            context_window=32_768,
            max_output_tokens=512,
            input_rate=1.0,
            output_rate=2.0,
            strengths={"general": strength},
            first_token_seconds=8.0,
        )
        for name, provider, strength in (("alpha", "first", 0.9), ("beta", "second", 0.5))
    )
