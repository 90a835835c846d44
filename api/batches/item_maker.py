"""From a line to an item as it waits: its price, its queue entry, or what is wrong with it.

Owns what a line costs in time: prices and submissions that many lines share are made once. What a
line may contain is its dialect's own (`LineReader`).
"""

from typing import Final, NamedTuple, Protocol

from api.accept import accept
from api.accept.accept import Submissions
from api.accept.intent import Intent
from api.accept.pricing import Pricing
from api.batches.copies import Copies, hash_of
from api.batches.item_names import ItemNames
from shared.errors import RequestError
from shared.routing import price
from shared.stores.fleet import Fleet
from shared.wire import submission as submissions
from shared.wire.batch import BatchItem
from shared.wire.batch_copies import Copy
from shared.wire.conversation import FREE_TEXT
from shared.wire.routing import Routing
from shared.wire.submission import BATCH_WIRE, COPIES_WIRE

_PRICES_MAX: Final = 4_096
_SENTENCE_CHARACTERS_MAX: Final = 500
_EXCLUSIONS_MAX: Final = 3


class Line(NamedTuple):
    """A line as its dialect reads it: what it asks for, or the error that refuses it."""

    custom_id: str | None
    asked: Intent | RequestError


class LineReader(Protocol):
    """How a dialect reads the lines of one batch, with the defaults of that batch."""

    def read(self, raw: bytes) -> Line:
        """Return what a line asks for."""


class _Entry(NamedTuple):
    """What lines that differ only in their text have in common."""

    hold: int
    submission: bytes


class ItemMaker:
    """Makes the items of one upload; with `copies`, the first of identical ones is the item."""

    def __init__(
        self,
        offered: Submissions,
        reader: LineReader,
        names: ItemNames,
        request_id: str,
        copies: Copies | None = None,
    ) -> None:
        self._submissions = offered
        self._reader = reader
        self._names = names
        self._request_id = request_id
        self._copies = copies
        self._made = 0
        self._fleet = Fleet()
        self._entries: dict[object, _Entry] = {}

    def use(self, fleet: Fleet) -> None:
        """Price by the models that these workers have."""
        if fleet is not self._fleet:
            self._fleet = fleet
            self._entries.clear()

    def make(self, number: int, raw: bytes | None) -> BatchItem:
        """Return the item of a line, or the copy that it is.

        `raw` is None where the line is too long to be kept.
        """
        item = self._make(number, raw)
        self._made += item.copy_of is None
        return item

    def _make(self, number: int, raw: bytes | None) -> BatchItem:
        if raw is None:
            return self._fault(None, number, "The line is longer than a message may be.")
        line = self._reader.read(raw)
        asked = line.asked
        if not self._names.take(line.custom_id, number):
            return _item(line.custom_id, number, fault=_taken(line.custom_id))
        if isinstance(asked, RequestError):
            return _item(line.custom_id, number, fault=_sentence(asked))
        try:
            if self._copies is None:
                return self._priced(line.custom_id, number, asked, BATCH_WIRE)
            return self._first_or_copy(self._copies, line.custom_id, number, asked)
        except RequestError as error:
            # Kept in a local, the error would keep this frame, and so the line, for long.
            return _item(line.custom_id, number, fault=_sentence(error))

    def _fault(self, name: str | None, number: int, sentence: str) -> BatchItem:
        self._names.take(name, number)
        return _item(name, number, fault=sentence)

    def _first_or_copy(
        self, copies: Copies, name: str | None, number: int, asked: Intent
    ) -> BatchItem:
        hashed = hash_of(asked)
        original = copies.find(hashed)
        if original is None:
            made = self._priced(name, number, asked, COPIES_WIRE)
            copies.add_original(hashed, self._made)
            return made
        called = str(number) if name is None else name
        copies.add(Copy(called, number, original))
        return BatchItem(custom_id=called, line=number, copy_of=original)

    def _priced(self, name: str | None, number: int, asked: Intent, wire: int) -> BatchItem:
        entry = self._shared_entry(asked)
        return BatchItem(
            custom_id=str(number) if name is None else name,
            line=number,
            content=asked.message,
            model=asked.model,
            wire=wire,
            hold=entry.hold,
            submission=entry.submission,
            metadata=asked.metadata,
            project=asked.project,
            media=asked.features.media_urls,
        )

    def _shared_entry(self, asked: Intent) -> _Entry:
        if asked.conversation is not None or asked.form is not FREE_TEXT:
            return self._entry(asked)
        # The price depends on the text's length in tokens only, the submission not at all on it.
        kind = (
            price.tokens_in(asked.message),
            asked.model,
            asked.enhance_prompt,
            asked.budget,
            asked.max_output_tokens,
            asked.features,
            asked.sampling,
        )
        found = self._entries.get(kind)
        if found is None:
            if len(self._entries) >= _PRICES_MAX:
                self._entries.clear()
            found = self._entries[kind] = self._entry(asked)
        return found

    def _entry(self, asked: Intent) -> _Entry:
        pricing: Pricing = self._submissions.quote(asked, self._fleet)
        made = accept.submission_of(asked, pricing, None, self._request_id)
        hold = pricing.hold if asked.budget is None else min(pricing.hold, asked.budget)
        return _Entry(hold, submissions.encode(made))


def _item(name: str | None, number: int, *, fault: str) -> BatchItem:
    return BatchItem(custom_id=str(number) if name is None else name, line=number, fault=fault)


def _taken(name: str | None) -> str:
    if name is None:
        return "The line has no `custom_id`, and another line has its number as its `custom_id`."
    return "The field `custom_id` is that of an earlier line."


def _sentence(error: RequestError) -> str:
    """Return what is wrong, with what excluded each model where none can answer."""
    sentence = error.message
    routing = error.details.get("routing")
    if isinstance(routing, Routing):
        excluded = [f"`{each.model}` by {each.excluded_by}" for each in routing.candidates]
        listed = ", ".join(excluded[:_EXCLUSIONS_MAX])
        more = ", and others" if len(excluded) > _EXCLUSIONS_MAX else ""
        sentence = f"No model can answer this line: {listed}{more}." if excluded else sentence
    return sentence[:_SENTENCE_CHARACTERS_MAX]
