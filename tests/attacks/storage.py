"""Fills the server with sessions and with cancelled messages; operators at a full server."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Final

from shared.clock import SystemClock
from tests.attacks import bounds, flood, other_tenant, target as targets
from tests.attacks.flood import Flood
from tests.attacks.target import MIB, Key, Plan, Target
from tests.bench.figures import Figure
from tests.support.api_client import ApiClient, Json

CHARACTERS: Final = 200_000
WIDE: Final = "\U0001f30d"  # four bytes, and one character
_SECONDS: Final = 25.0
_SECONDS_WHEN_FULL: Final = 2.0
_MAXMEMORY_MIB: Final = 16
# Sixteen entries of the longest names and texts.
_METADATA: Final = {f"{number:064}": WIDE * 512 for number in range(16)}
_CREATED: Final = 201
_FULL: Final = 503

_FIRST_MESSAGES: Final = 55
_FURTHER_SECONDS: Final = 25.0
_PAUSE_SECONDS: Final = 0.5
_LARGE_MAXMEMORY_MIB: Final = 256


async def create_sessions(checkout: Path) -> list[Figure]:
    """Create sessions with a free account without credits; then run commands at a full server."""
    async with targets.running(checkout, Plan(maxmemory_mib=_MAXMEMORY_MIB)) as target:
        revoked_key, dead = await _create_key_and_dead_letter(target)
        free = await target.key("attacker", "free", credits=0)
        request = flood.post("/v1/ai/sessions", free, {"metadata": _METADATA})
        flooded, tenant_report = await other_tenant.run_beside(target, _fill(target, request))
        stored = flooded.answers[_CREATED] * len(request) / MIB
        return [
            Figure(
                f"a free account creates sessions, maxmemory {_MAXMEMORY_MIB} MiB",
                f"{flooded.answers[_CREATED]} sessions, {stored:.1f} MiB, {flooded.seconds:.0f} s",
                flooded.text(),
                f"<= {bounds.SESSIONS_MIB:g} MiB",
                stored <= bounds.SESSIONS_MIB,
            ),
            tenant_report.figure(),
            await _operate_a_full_server(target, revoked_key, dead),
        ]


async def _fill(target: Target, request: bytes) -> Flood:
    """Send the request until the server is full or the time is over, then pause a little."""

    def is_full(answers: Counter[int]) -> bool:
        return answers[_FULL] > 0

    flooded = await flood.flood(target, request, seconds=_SECONDS, connections=4, is_over=is_full)
    await SystemClock().sleep(_SECONDS_WHEN_FULL)
    return flooded


async def _create_key_and_dead_letter(target: Target) -> tuple[Key, str]:
    """Return a key to revoke, and a dead letter to discard."""
    key = await target.key("customer", "pro")
    async with target.customer(key) as customer:
        status = await customer.submit_and_wait("fails [empty]")
    assert status["state"] == "failed", status
    listed = json.loads((await target.pollux("dead", "list", "--json")).stdout)
    return key, str(listed[0]["id"])


async def _operate_a_full_server(target: Target, revoked_key: Key, dead: str) -> Figure:
    """Run operators' commands where no further byte may be stored."""
    with target.server.raw_client() as raw_client:
        raw_client("CONFIG", "SET", "maxmemory", max(1, target.stored_bytes() - MIB))
    commands = {
        "revoke": ("keys", "revoke", revoked_key.id),
        "create": ("keys", "create", "--account", "newcomer", "--tier", "pro"),
        "grant": ("credits", "grant", "customer", "5"),
        "discard": ("dead", "discard", dead),
    }
    failed = [
        name for name, words in commands.items() if (await target.pollux(*words)).returncode != 0
    ]
    return Figure(
        "  operator at a full server",
        f"{len(commands) - len(failed)} of {len(commands)} done",
        f"failed: {', '.join(failed) or 'none'}",
        f"{bounds.OPERATORS_FAILED} failed",
        len(failed) <= bounds.OPERATORS_FAILED,
    )


async def submit_and_cancel(checkout: Path) -> list[Figure]:
    """Store long messages that are cancelled while they wait, at no cost.

    The first are sent quickly by an account of a larger tier, which is then made a free one: as
    such it would need six minutes for them.
    """
    async with targets.running(checkout, Plan(maxmemory_mib=_LARGE_MAXMEMORY_MIB)) as target:
        key = await target.key("attacker", "pro")
        before = target.stored_bytes()
        async with target.customer(key) as customer:
            first = await store_cancelled(customer, _FIRST_MESSAGES)
            await target.key("attacker", "free", credits=0)
            attack = _submit_and_cancel(customer, first["session_id"])
            (answers, seconds), tenant_report = await other_tenant.run_beside(target, attack)
        stored = (target.stored_bytes() - before) / MIB
    refused = ", ".join(f"{count} x {code}" for code, count in sorted(answers.items()))
    return [
        Figure(
            f"a free account submits and cancels, after {_FIRST_MESSAGES} messages of 0.8 MB",
            f"{answers['stored']} more in {seconds:.0f} s, {stored:.0f} MiB",
            refused,
            f"refused by {bounds.CANCELLED_MIB:g} MiB",
            answers["QUOTA_EXCEEDED"] > 0 and stored <= bounds.CANCELLED_MIB,
        ),
        tenant_report.figure(),
    ]


async def store_cancelled(customer: ApiClient, count: int) -> Json:
    """Create a conversation of `count` long messages that are cancelled; return its first turn.

    The first turn takes a minute, so the others wait until they are cancelled.
    """
    first = await customer.submit("hold it [first=60]")
    for _ in range(count):
        receipt = await customer.submit(WIDE * CHARACTERS, session_id=first["session_id"])
        await cancel(customer, receipt)
    return first


async def cancel(customer: ApiClient, receipt: Json) -> None:
    """Cancel a generation."""
    path = receipt["poll_url"].replace("/status", "/cancel")
    (await customer.post(path)).raise_for_status()


async def _submit_and_cancel(customer: ApiClient, session: str) -> tuple[Counter[str], float]:
    """Submit and cancel as fast as the front allows, until the quota is used up."""
    answers: Counter[str] = Counter()
    began = time.monotonic()
    fields = {"message": WIDE * CHARACTERS, "session_id": session}
    while time.monotonic() - began < _FURTHER_SECONDS and not answers["QUOTA_EXCEEDED"]:
        answer = (await customer.post("/api/v1/chat", json=fields)).json()
        answers[answer.get("code", "stored")] += 1
        if answer["success"]:
            await cancel(customer, answer)
        await SystemClock().sleep(_PAUSE_SECONDS)
    return answers, time.monotonic() - began
