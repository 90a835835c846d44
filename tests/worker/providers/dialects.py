"""The list of all rows: every test with the fixture `dialect` runs for each of them."""

from typing import Final

from tests.worker.providers import anthropic, gemini, openai
from tests.worker.providers.dialect_row import Dialect

DIALECTS: Final[tuple[Dialect, ...]] = (openai.ROW, anthropic.ROW, gemini.ROW)


def named(name: str) -> Dialect:
    """Return the row of a dialect."""
    (row,) = (dialect for dialect in DIALECTS if dialect.name == name)
    return row
