"""The model that rewords messages, beside those that answer, over one scripted upstream.

Owns the catalogue and settings that a test of rewording needs, and records which model was sent
what.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from tests.support.scripted_provider import Request, ScriptedAnswer, ScriptedProvider, by_words
from tests.worker.single_attempts import Attempts

UNCLEAR: Final = "how do i sort list numbers python biggest first"
CLEARER: Final = "How do I sort a list of numbers in Python with the biggest first?"


class RewordingModel:
    """Controls and records what the rewording model and the answering models are sent."""

    def __init__(self, attempts: Attempts, provider: ScriptedProvider) -> None:
        self._attempts = attempts
        self._provider = provider
        self.say: Callable[[Request], ScriptedAnswer] = lambda _: ScriptedAnswer(text=CLEARER)
        provider.answer = self._answer
        self.use(model="scribe", seconds=15.0)
        self.change(identifier="scribe", upstream="upstream-scribe", aliases=(), input_rate=500.0)

    def use(self, **fields: Any) -> None:  # noqa: ANN401  of any field's type
        """Change the settings of rewording."""
        settings = self._attempts.settings
        changed = msgspec.structs.replace(settings.enhancement, **fields)
        self._attempts.settings = msgspec.structs.replace(settings, enhancement=changed)

    def change(self, **fields: Any) -> None:  # noqa: ANN401  of any field's type
        """Change its catalogue entry, which otherwise copies that of the first model."""
        settings = self._attempts.settings
        first, *others = settings.models
        mine = next((each for each in others if each.identifier == "scribe"), first)
        others = [each for each in others if each is not mine]
        changed = msgspec.structs.replace(mine, **fields)
        self._attempts.settings = msgspec.structs.replace(
            settings, models=(first, *others, changed)
        )

    def answers(self, **fields: Any) -> None:  # noqa: ANN401  of any field's type
        """Set its answer."""
        self.say = lambda _: ScriptedAnswer(**fields)

    @property
    def asked(self) -> list[Request]:
        """The requests that it was sent."""
        return [each for each in self._provider.requests if self._is_mine(each)]

    @property
    def sent(self) -> list[str]:
        """The messages that the answering models were sent."""
        return [each.last for each in self._provider.requests if not self._is_mine(each)]

    def _answer(self, request: Request) -> ScriptedAnswer:
        return self.say(request) if self._is_mine(request) else by_words(request)

    @staticmethod
    def _is_mine(request: Request) -> bool:
        return bool(request.body["model"] == "upstream-scribe")
