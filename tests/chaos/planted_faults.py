"""Known faults, planted one by one: the invariants must name each, and find nothing without one.

Owns the faults, as Lua text wrapped around the real functions in a library under another name; and
the table of `python -m tests.chaos.planted_faults`. Changes no file.

DESIGN. A fault stands between a function and its registration: it changes the arguments before, or
what is stored after. So a line or two shows a typical mistake, and stays valid when the function
itself is rewritten.
"""

import asyncio
import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from shared.redis import keys, library
from shared.redis.client import Redis
from shared.settings import RedisSettings
from tests.chaos import invariants
from tests.chaos.evidence import Finding
from tests.chaos.full_scenario import FullScenario
from tests.support.redis_functions import RedisFunctions
from tests.support.redis_server import RawClient, Server


class Fault(msgspec.Struct, frozen=True):
    """A fault of one Redis function, and the invariant that must find it.

    `before` and `after` are Lua around the call, with `root`, `ask` and, after it, `answer`.
    """

    function: str
    invariant: str
    before: str = ""
    after: str = ""

    def text(self, original: str) -> str:
        """Return the text of a library with the fault in it."""
        line = f"register('{self.function}', {self.function})"
        if original.count(line) != 1:
            raise ValueError(f"the library registers {self.function} otherwise than thought")
        # A function knows only the keys that it names itself.
        named = "\n".join(
            key.lua(name)
            for name, key in keys.FAMILIES.items()
            if f"{name}_key(" in self.before + self.after
        )
        wrapped = (
            f"register('{self.function}', function(root, ask)\n{named}\n{self.before}\n"
            f"local answer = {self.function}(root, ask)\n{self.after}\nreturn answer\nend)"
        )
        return original.replace(line, wrapped)


_RECORD: Final = "local record = load_generation(root, ask.account, ask.id) or {}"
_TOTALS_KEY: Final = "account_totals_key(root, ask.account)"
_IS_DONE: Final = "type(answer) == 'table' and answer[1] == 'settled'"

FAULTS: Final[dict[str, Fault]] = {
    "no fence in append": Fault(
        "append", "I7", before=f"{_RECORD}\nask.attempt = tonumber(record.attempt)"
    ),
    "no fence in settle": Fault(
        "settle", "I7", before=f"{_RECORD}\nask.attempt = tonumber(record.attempt)"
    ),
    "no gap rule": Fault("reap", "I4", before="ask.gap_ms = 1e15"),
    "no lease": Fault("claim", "I4", before="ask.lease_ms = -1"),
    "settlement booked twice": Fault(
        "settle",
        "I3",
        before=_RECORD,
        after=(
            f"if {_IS_DONE} then\n"
            "settle_credits(root, ask.account, ask.id, record, ask, nil, 0)\nend"
        ),
    ),
    "hold kept after a failure": Fault(
        "settle",
        "I3",
        before=_RECORD,
        after=(
            f"if {_IS_DONE} and ask.stage == 'failed' then\n"
            f"redis.call('HINCRBY', {_TOTALS_KEY}, 'held', record.hold)\n"
            f"redis.call('HINCRBY', {_TOTALS_KEY}, 'balance', -record.hold)\nend"
        ),
    ),
    "failure charged": Fault(
        "settle", "I3", before=f"{_RECORD}\nif ask.stage == 'failed' then ask.cost = 7 end"
    ),
    "release that leaves no lane entry": Fault(
        "release",
        "I1",
        before=_RECORD,
        after="if record.lane then remove_ready(root, ask.account, ask.id, record.lane) end",
    ),
    "reap that leaves no lane entry": Fault(
        "reap",
        "I1",
        after=(
            "for _, done in ipairs(answer[1]) do\n"
            "local record = load_generation(root, done[1], done[2])\n"
            "remove_ready(root, done[1], done[2], record.lane)\n"
            "local name = member(done[1], done[2])\n"
            "for _, key in ipairs({suspects_key(root), deferred_key(root)}) do\n"
            "redis.call('ZREM', key, name)\nend\nend"
        ),
    ),
    "reap that ignores a cancel": Fault(
        "reap",
        "I9",
        before=(
            "for _, name in ipairs(redis.call('ZRANGE', leases_key(root), 0, -1)) do\n"
            "local account, id = split(name)\n"
            "redis.call('HDEL', generation_key(root, account, id), 'cancel')\nend"
        ),
    ),
    "turns that do not wait": Fault(
        "accept",
        "I10",
        after=(
            "make_ready(root, ask.account, ask.generation, ask.lane,\n"
            "redis.call('HGET', generation_key(root, ask.account, ask.generation), 'number'))"
        ),
    ),
    "end appended twice": Fault(
        "settle",
        "I2",
        after=(
            f"if {_IS_DONE} then\n"
            "append_event(root, ask.account, ask.id, ask.attempt, ask.seq + 1, ask.event)\nend"
        ),
    ),
    "event lost": Fault("append", "I5", before="if ask.seq == 2 then ask.events = {} end"),
    "text lost": Fault(
        "settle",
        "I5",
        before=(
            "ask.blob = string.gsub(ask.blob, ' %d+:4',\n"
            "function(word) return string.rep(' ', #word) end)"
        ),
    ),
    "another's words": Fault(
        "accept",
        "I6",
        before=(
            "local said = redis.call('HGET', clocks_key(root), 'said') or ''\n"
            "redis.call('HSET', clocks_key(root), 'said', ask.content)\n"
            "ask.content = ask.content .. said"
        ),
    ),
    "heartbeat that revives an ended one": Fault(
        "renew_leases",
        "I9",
        after=(
            "for _, held in ipairs(ask.held) do\n"
            "redis.call('HSET', generation_key(root, held[1], held[2]), 'stage', 'generating')\nend"
        ),
    ),
    "slot that stays taken": Fault(
        "settle", "I8", after=f"redis.call('HINCRBY', {_TOTALS_KEY}, 'running_interactive', 1)"
    ),
    "text that stays": Fault(
        "settle", "I8", after="redis.call('SET', text_key(root, ask.account, ask.id), 'left')"
    ),
}


@contextmanager
def planted(fault: Fault | None) -> Iterator[None]:
    """Make this process call a library with the fault until the block ends."""
    known = (library.NAME, library.TEXT)
    if fault is not None:
        _install(fault)
    try:
        yield
    finally:
        library.NAME, library.TEXT = known


def _install(fault: Fault) -> None:
    text = fault.text(library.TEXT)
    name = f"planted_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    library.NAME, library.TEXT = name, text.replace(library.NAME, name)


def plant(name: str) -> None:
    """Make this process call a library with the fault of that name, for the rest of its life."""
    _install(FAULTS[name])


async def findings_with(
    raw_client: RawClient, settings: RedisSettings, fault: Fault | None
) -> list[Finding]:
    """Run the full scenario with the fault; return what the invariants find afterwards."""
    with planted(fault):
        redis = Redis(settings)
        try:
            await library.load(redis)
            evidence = await FullScenario(
                RedisFunctions(redis, settings, settings.partitions - 1)
            ).run()
        finally:
            await redis.close()
    return invariants.check(raw_client, settings, evidence)


def main() -> int:
    """Plant each fault in turn; return 1 if one is not named."""
    missed = 0
    with Server() as server, server.raw_client() as raw_client:
        for number, (name, fault) in enumerate({"nothing": None, **FAULTS}.items()):
            settings = RedisSettings(url=server.url, prefix=f"p{number}")
            findings = asyncio.run(findings_with(raw_client, settings, fault))
            names = sorted({finding.invariant for finding in findings})
            expected = [fault.invariant] if fault is not None else names
            is_named = set(expected) <= set(names) if fault else not names
            missed += not is_named
            verdict = "named" if is_named else "MISSED"
            sys.stdout.write(f"{name:32} {' '.join(expected):4} {verdict:7} by {' '.join(names)}\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
