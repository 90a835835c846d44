"""Fuzzes the reading of providers' streams; exit code 1 if anything differs or memory grows."""

import argparse
import asyncio
import resource
import sys
import time
from typing import Final

from tests.worker.fuzz import types
from tests.worker.fuzz.comparison import FUZZ_DIALECTS, differences

_ADDED_MIB_MAX: Final = 32


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def _walk(name: str, seed: int, inputs: int) -> bool:
    """Fuzz one dialect and print what was found; return whether nothing differs."""
    began, before_mib, found = time.monotonic(), _peak_mib(), 0
    async for difference in differences(name, seed, inputs):
        found += 1
        sys.stdout.write(difference + "\n")
    added_mib = _peak_mib() - before_mib
    seconds = time.monotonic() - began
    sys.stdout.write(
        f"{name}: {inputs} inputs of seed {seed}: {found} differ; {seconds:.0f} s, "
        f"{added_mib:.1f} MiB more at most (of {_ADDED_MIB_MAX})\n"
    )
    sys.stdout.flush()
    return not found and added_mib <= _ADDED_MIB_MAX


async def _types(name: str) -> bool:
    """Try every field of a dialect as every type, print lost answers; return whether none is."""
    found = 0
    async for loss in types.losses(name):
        found += 1
        sys.stdout.write(loss + "\n")
    count = sum(1 for _ in types.mutants(name))
    sys.stdout.write(f"{name}: {count} fields of another type: {found} answers lost\n")
    return not found


async def _main_types(names: list[str]) -> int:
    results = [await _types(name) for name in names]
    return 0 if all(results) else 1


async def _main(names: list[str], seed: int, inputs: int) -> int:
    results = [await _walk(name, seed, inputs) for name in names]
    return 0 if all(results) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fuzz the reading of providers' streams.")
    parser.add_argument("--inputs", type=int, default=10_000, help="of each dialect")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dialect", choices=FUZZ_DIALECTS, help="one of them; all, when not given")
    parser.add_argument("--types", action="store_true", help="fields as values of other types")
    arguments = parser.parse_args()
    chosen = [arguments.dialect] if arguments.dialect else list(FUZZ_DIALECTS)
    if arguments.types:
        sys.exit(asyncio.run(_main_types(chosen)))
    sys.exit(asyncio.run(_main(chosen, arguments.seed, arguments.inputs)))
