"""Sentences of rejections: amounts to the last digit."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from api.accept.rejections import Rejections
from shared.errors import Code
from shared.redis.functions import Rejected


@pytest.mark.parametrize(
    ("hold", "balance", "needed", "there"),
    [
        (12_345_679, 12_345_678, "12.345679", "12.345678"),
        (2_500_000_000_000, 1_500_000_000_000, "2500000", "1500000"),
        (100_000_000, 1, "100", "0.000001"),
        (1, 0, "0.000001", "0"),
    ],
)
async def test_credits_are_told_to_the_last_digit(
    hold: int, balance: int, needed: str, there: str
) -> None:
    rejections, ask = Rejections(*[cast("Any", None)] * 4), cast("Any", SimpleNamespace(hold=hold))
    refusal = await rejections.error("", ask, Rejected("poor", str(balance), hold=hold))
    assert refusal.code is Code.INSUFFICIENT_CREDITS
    assert refusal.message == f"The answer may cost {needed} credits; {there} are available."
