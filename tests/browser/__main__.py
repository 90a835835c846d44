"""Runs the page once in a browser, and prints what it reported: `python -m tests.browser`."""

import asyncio
import sys

from tests.browser.runner import browsers, run_page


def main() -> int:
    """Return 0 if every step was as it must be."""
    found = browsers()
    if not found:
        sys.stderr.write("Chromium is not installed; Debian's package is `chromium`.\n")
        return 2
    report = asyncio.run(run_page(found[0]))
    for step, what in report.page.items():
        sys.stdout.write(f"{step:10} {what}\n")
    sys.stdout.write(f"{'other':10} {report.other_origin}\n")
    faults = report.faults()
    sys.stdout.write("\n".join([*faults, f"{len(faults)} faults"]) + "\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
