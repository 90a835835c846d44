"""Runs the conformance suite and prints a table: each behaviour, and its result for each dialect.

A behaviour is a test with the fixture `dialect`. `ok`: all of its cases passed. `not offered`: the
suite runs it for other dialects only, because this one has no such feature.
"""

import sys
from collections import defaultdict
from pathlib import Path
from typing import Final

import pytest

from tests.worker.providers.dialects import DIALECTS

_FOLDER: Final = Path(__file__).parent
# What only one dialect has is tried in files of its own.
_OWN: Final = {f"test_{dialect.name}.py" for dialect in DIALECTS}
_NOT_OFFERED: Final = "not offered"


class ResultTable:
    """A plugin of pytest that keeps what came of each behaviour with each dialect."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what came of a test, in whichever process it ran."""
        properties = dict(report.user_properties)
        file, _, test = report.location
        is_told = report.when == "call" or report.failed
        if "dialect" in properties and is_told and Path(file).name not in _OWN:
            behaviour = test.partition("[")[0].removeprefix("test_").replace("_", " ")
            topic = f": {properties['topic']}" if "topic" in properties else ""
            title = f"{Path(file).stem.removeprefix('test_')}: {behaviour}{topic}"
            self._found[title][str(properties["dialect"])].append(report.passed)

    def text(self) -> str:
        """Return the table."""
        names = [dialect.name for dialect in DIALECTS]
        width = max(map(len, self._found), default=0)
        lines = ["  ".join((" " * width, *(name.ljust(len(_NOT_OFFERED)) for name in names)))]
        for behaviour, found in sorted(self._found.items()):
            words = [_word(found[name]).ljust(len(_NOT_OFFERED)) for name in names]
            lines.append("  ".join((behaviour.ljust(width), *words)).rstrip())
        return "\n".join(lines) + "\n"


def _word(passed: list[bool]) -> str:
    if not passed:
        return _NOT_OFFERED
    cases = f" ({len(passed)})" if len(passed) > 1 else ""
    return f"ok{cases}" if all(passed) else f"FAILED {passed.count(False)} of {len(passed)}"


def main() -> int:
    """Run all and print; return pytest's own exit code."""
    table = ResultTable()
    code = pytest.main(["-q", "--no-header", str(_FOLDER)], plugins=[table])
    sys.stdout.write("\n" + table.text())
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
