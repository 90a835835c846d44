"""A page of an allowed origin can use the API in a browser; one of another origin cannot."""

import pytest

from tests.browser.runner import browsers, run_page


@pytest.mark.timeout(90)
@pytest.mark.parametrize("program", browsers())
async def test_a_page_on_another_origin_submits_follows_and_resumes(program: str) -> None:
    """People who write a chat page need no server of their own in between."""
    report = await run_page(program)
    assert report.faults() == []
