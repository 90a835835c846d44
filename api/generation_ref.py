"""Where one generation is stored: the partition's root, the account and the id."""

from typing import NamedTuple


class GenerationRef(NamedTuple):
    """The address of a generation in Redis: `keys.GENERATION(*ref)` is the key of its record."""

    root: str
    account: str
    id: str
