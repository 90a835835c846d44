"""Ten thousand messages at once on credits for a hundred: exactly a hundred are accepted.

No worker runs, so no credits are freed meanwhile. Every response is counted, and in the end the
credits in Redis must agree with the responses.
"""

import asyncio
from collections import Counter
from typing import Final

from shared.clock import SystemClock
from shared.errors import Code
from shared.stores.accounts import Accounts
from tests.bench import figures, system_rig
from tests.bench.figures import Figure
from tests.bench.system_rig import Rig
from tests.support import redis_invariants

SUBMISSIONS: Final = 10_000
PAID_FOR: Final = 100
_AT_ONCE: Final = 200
_MESSAGE: Final = {"message": "Is there anything left to pay this with?"}


async def measure(submissions: int = SUBMISSIONS, paid_for: int = PAID_FOR) -> list[Figure]:
    """Grant credits for `paid_for` holds and send `submissions` messages."""
    async with system_rig.running() as system:
        accounts = Accounts(system.redis, system.settings.redis, b"", SystemClock())
        hold = await _hold(system, accounts)
        balance = (await accounts.credit_totals(system.account)).balance
        # Credits for almost one more hold pay for nothing.
        await accounts.grant(system.account, paid_for * hold + hold - 1 - balance)
        answers = await _send(system, submissions)
        credit_totals = await accounts.credit_totals(system.account)
        with system.server.raw_client() as raw_client:
            faults = redis_invariants.faults(raw_client, system.settings.redis)
    expected = Counter(
        {"accepted": paid_for, Code.INSUFFICIENT_CREDITS.value: submissions - paid_for}
    )
    is_met = answers == expected and credit_totals.held == (paid_for + 1) * hold and not faults
    described = ", ".join(f"{count:,} {word}" for word, count in answers.most_common())
    return [
        Figure(
            f"{submissions:,} messages at once, credits for {paid_for}",
            f"{answers['accepted']} accepted",
            described,
            f"{paid_for}, credits exact",
            is_met,
        )
    ]


async def _hold(system: Rig, accounts: Accounts) -> int:
    """Submit one message and return its hold."""
    async with system.customer() as customer:
        (await customer.post("/api/v1/chat", json=_MESSAGE)).raise_for_status()
    return (await accounts.credit_totals(system.account)).held


async def _send(system: Rig, submissions: int) -> Counter[str]:
    """Send from many clients at once; count the responses."""
    left = iter(range(submissions))
    answers: Counter[str] = Counter()

    async def client() -> None:
        async with system.customer() as customer:
            for _ in left:
                answer = (await customer.post("/api/v1/chat", json=_MESSAGE)).json()
                answers["accepted" if answer["success"] else answer["code"]] += 1

    await asyncio.gather(*(client() for _ in range(_AT_ONCE)))
    return answers


async def report() -> None:
    """Measure and print."""
    figures.print_line(figures.table("overdraft", await measure()))


if __name__ == "__main__":
    figures.print_line(figures.machine())
    asyncio.run(report())
