"""How often a long-lived process lets Python's cyclic garbage collector run.

Owns the collector's settings, which are a whole process' own: called once where one starts, never
by a library or a test.

What a generation or a request allocates is freed by its reference counts, so young collections
find next to nothing and cost a sixth of a busy worker's CPU at CPython's threshold of 700 objects.
"""

import gc
from typing import Final

# Container objects allocated and not yet freed between two young collections: a few MiB at most.
_YOUNG_MAX: Final = 20_000


def tune() -> None:
    """Leave what the process has loaded so far out of every collection, and collect seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_MAX, *gc.get_threshold()[1:])
