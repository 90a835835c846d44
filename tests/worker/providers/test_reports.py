"""Every dialect reports the same of the same answers, as far as it has fields for it."""

import pytest

from tests.worker.providers.reports import REPORTS, Report, result, table
from tests.worker.providers.upstream import Upstream


@pytest.mark.parametrize(
    "report", REPORTS, ids=lambda report: f"{report.dialect.name} {report.case}"
)
async def test_what_a_dialect_reports(report: Report, upstream: Upstream) -> None:
    assert await result(report, upstream) == report.expected


async def test_the_table_has_every_case_in_every_dialect() -> None:
    printed = await table()
    assert "WRONG" not in printed
    cases = {report.case for report in REPORTS}
    assert printed.count("\n") == 4 * len(cases)
    assert printed.count("not reported") == 3 * len(cases) - len(REPORTS) == 2
