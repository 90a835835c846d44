"""The breaker of a circuit: when it opens, who may probe it, and what closes it again."""

import asyncio
from typing import Any

import msgspec
import pytest

from shared.redis import functions, keys
from shared.redis.client import Redis
from shared.redis.functions import Breaker, EndProbeAsk, FailAsk, ProbeAsk
from shared.settings import RedisSettings
from shared.stores import fleet
from shared.stores.fleet import Calls
from shared.wire.fleet import WorkerReport
from tests.support import waiting

_CIRCUIT = "scripted/alpha/open"
_LEASE_MS = 5_000
_FAILED = FailAsk(
    circuit=_CIRCUIT,
    call="",
    account="",
    message="",
    why="timeout",
    window_ms=30_000,
    failures_min=5,
    failures_share=0.5,
    account_min=3,
    cooling_ms=10_000,
    cooling_max_ms=300_000,
    chance=0.5,
)


class Ward:
    """The breakers of a deployment, in few words."""

    def __init__(self, redis: Redis, settings: RedisSettings) -> None:
        self.redis = redis
        self.settings = settings
        self.root = keys.system_root(settings)
        self._made = 0
        self.circuit = ""

    async def fail(self, call: str = "", **fields: Any) -> tuple[Breaker, bool]:  # noqa: ANN401  of any field
        """Tell a failure: of a call, a message and an account of their own if none is named."""
        self._made += 1
        call = call or f"call-{self._made}"
        own = {"call": call, "message": call, "account": f"account-{call}"}
        ask = msgspec.structs.replace(_FAILED, **(own | fields))
        told = await functions.fail(self.redis, self.root, ask)
        self.circuit = told.circuit
        return told.breaker, told.is_new

    async def open(self) -> None:
        """Let enough calls fail."""
        for _ in range(_FAILED.failures_min):
            await self.fail()

    async def due(self) -> None:
        """Let the cooling be over."""
        await self.redis.call("HSET", keys.BREAKER(self.root, _CIRCUIT), "due", 1)

    async def probe(
        self, call: str, lease_ms: int = _LEASE_MS, *, account: str = "prober"
    ) -> Breaker | None:
        """Ask to be the probe."""
        ask = ProbeAsk(circuit=_CIRCUIT, call=call, account=account, lease_ms=lease_ms)
        return await functions.probe(self.redis, self.root, ask)

    def end(self, call: str, *, is_well: bool) -> None:
        """End a probe."""
        ask = EndProbeAsk(circuit=_CIRCUIT, call=call, is_well=is_well)
        functions.end_probe(self.redis, self.root, ask)

    async def report(self, made_ms: int = 1, **told: Any) -> dict[str, Breaker]:  # noqa: ANN401  of any field
        """Report as a worker, and return the breakers that it hears of."""
        pulse = WorkerReport(id="w1", concurrency=1, running=0, models=(), wire=1, made_ms=made_ms)
        calls = Calls(lease_ms=_LEASE_MS, window_ms=_FAILED.window_ms)._replace(**told)
        return (await fleet.report(self.redis, self.settings, pulse, calls)).breakers


@pytest.fixture
def ward(redis: Redis, redis_settings: RedisSettings) -> Ward:
    return Ward(redis, redis_settings)


# What opens it


async def test_enough_failures_open_it_once_and_everybody_hears(ward: Ward) -> None:
    told = [await ward.fail() for _ in range(7)]
    assert [breaker.state for breaker, _ in told] == ["closed"] * 4 + ["open"] * 3
    assert [is_new for _, is_new in told] == [False] * 4 + [True] + [False] * 2
    assert told[4][0].left_ms == 10_000
    heard = await ward.report()
    assert heard[_CIRCUIT].state == "open"
    assert heard[_CIRCUIT].why == "timeout"
    assert 9_000 < heard[_CIRCUIT].left_ms <= 10_000


async def test_the_same_failure_counts_once(ward: Ward) -> None:
    told = [(await ward.fail("one"))[0].state for _ in range(9)]
    assert set(told) == {"closed"}


async def test_of_many_at_once_one_opens(ward: Ward) -> None:
    told = await asyncio.gather(*(ward.fail() for _ in range(40)))
    assert sum(is_new for _, is_new in told) == 1
    assert [breaker.state for breaker, _ in told].count("closed") == 4


@pytest.mark.parametrize(("answered", "state"), [(5, "open"), (6, "closed")])
async def test_answered_calls_weigh_against_the_failures(
    ward: Ward, answered: int, state: str
) -> None:
    await ward.report(answered=((_CIRCUIT, answered), ("another", 100)))
    told = [(await ward.fail())[0].state for _ in range(5)]
    assert told[-1] == state


async def test_calls_that_no_report_has_told_of_weigh_too(ward: Ward) -> None:
    await ward.report(answered=((_CIRCUIT, 3),))
    told = [(await ward.fail(answered=3))[0].state for _ in range(5)]
    assert told[-1] == "closed"
    assert (await ward.fail(answered=3))[0].state == "open"


async def test_report_that_is_sent_again_counts_once(ward: Ward) -> None:
    for made_ms in (1, 1, 1, 2, 2):
        await ward.report(made_ms, answered=((_CIRCUIT, 2),))
    found = await ward.redis.call("KEYS", keys.SUCCESSES(ward.root, _CIRCUIT, "*"))
    counts = [int(await ward.redis.call("GET", name)) for name in found]
    assert sum(counts) == 4


async def test_old_failures_do_not_count(ward: Ward) -> None:
    for _ in range(4):
        await ward.fail()
    name = keys.FAULTS(ward.root, _CIRCUIT)
    for call in await ward.redis.call("ZRANGE", name, 0, -1):
        await ward.redis.call("ZADD", name, 1, call)
    breaker, _ = await ward.fail()
    assert breaker.state == "closed"
    assert await ward.redis.call("ZCARD", name) == 1


async def test_some_failures_open_it_at_once_for_as_long_as_they_say(ward: Ward) -> None:
    breaker, is_new = await ward.fail(why="auth", at_once_ms=60_000)
    assert (breaker, is_new) == (Breaker("open", 60_000, "auth"), True)


async def test_tries_of_one_message_count_once(ward: Ward) -> None:
    told = [(await ward.fail(message="one", account="ann"))[0].state for _ in range(9)]
    assert set(told) == {"closed"}


async def test_messages_of_one_account_close_it_to_that_account_alone(ward: Ward) -> None:
    told = [await ward.fail(account="ann") for _ in range(3)]
    assert [breaker.state for breaker, _ in told] == ["closed", "closed", "open"]
    assert ward.circuit == f"{_CIRCUIT}@ann"
    for _ in range(20):
        await ward.fail(account="ann")
    assert set(await ward.report()) == {f"{_CIRCUIT}@ann"}


async def test_an_account_that_is_mostly_answered_is_not_slowed(ward: Ward) -> None:
    told = [(await ward.fail(account="ann", answered_own=10))[0].state for _ in range(5)]
    assert set(told) == {"closed"}


async def test_messages_of_two_accounts_close_it_to_all(ward: Ward) -> None:
    for _ in range(4):
        await ward.fail(account="ann")
    breaker, is_new = await ward.fail(account="bob")
    assert (breaker.state, is_new, ward.circuit) == ("open", True, _CIRCUIT)


async def test_what_no_prompt_can_cause_counts_for_all_of_one_account_too(ward: Ward) -> None:
    told = [(await ward.fail(account="ann", is_shared=True))[0].state for _ in range(5)]
    assert told[-1] == "open"
    assert ward.circuit == _CIRCUIT


# Who probes it


async def test_the_accounts_that_opened_it_probe_after_others_and_the_last_one_last(
    ward: Ward,
) -> None:
    for account in ("bob", "ann", "ann", "ann", "ann"):
        await ward.fail(account=account, account_min=99)
    await ward.redis.call("HSET", keys.BREAKER(ward.root, _CIRCUIT), "due", await _now_ms(ward))
    for account, most in (("ann", 5_000), ("bob", 2_000)):
        seen = await ward.probe(f"of-{account}", account=account)
        assert seen is not None
        assert (seen.state, most - 2_000 < seen.left_ms <= most) == ("open", True)
    assert await ward.probe("of-carl", account="carl") is None


async def test_it_probes_where_nobody_else_does(ward: Ward) -> None:
    for account in ("bob", "ann", "ann", "ann", "ann"):
        await ward.fail(account=account, account_min=99)
    await ward.due()
    assert await ward.probe("of-ann", account="ann") is None


# Whoever opened it once more


async def _fail(ward: Ward, accounts: str, **fields: Any) -> str:  # noqa: ANN401  of any field
    """Let a message of each account fail, and return the state after the last."""
    states = [
        (await ward.fail(account=account, account_min=99, **fields))[0].state
        for account in accounts
    ]
    return states[-1]


async def _opened_and_closed(ward: Ward, accounts: str) -> None:
    """Have these accounts open it, and another one's probe close it again."""
    assert await _fail(ward, accounts) == "open"
    await ward.due()
    assert await ward.probe("well") is None
    ward.end("well", is_well=True)
    assert await ward.report() == {}


async def test_accounts_that_opened_it_for_nothing_do_not_open_it_again_by_themselves(
    ward: Ward,
) -> None:
    await _opened_and_closed(ward, "ababa")
    assert await _fail(ward, "ab" * 10) == "closed"
    # As soon as a message of another fails, too, it is an outage.
    assert await _fail(ward, "c") == "open"


@pytest.mark.parametrize(("accounts", "state"), [("abcabc", "closed"), ("abcdab", "open")])
async def test_more_than_three_of_them_at_once_are_an_outage(
    ward: Ward, accounts: str, state: str
) -> None:
    await _opened_and_closed(ward, "abcde")
    assert await _fail(ward, accounts) == state


async def test_what_no_prompt_can_cause_opens_it_whoever_tells(ward: Ward) -> None:
    await _opened_and_closed(ward, "ababa")
    assert await _fail(ward, "aaaaa", is_shared=True) == "open"


@pytest.mark.parametrize("till_ms", [-1, 3_600_000])
async def test_that_they_opened_it_is_forgotten(ward: Ward, till_ms: int) -> None:
    """After ten minutes, and where the clock was set back by more."""
    await _opened_and_closed(ward, "ababa")
    name = keys.ACCUSED(ward.root, _CIRCUIT)
    assert 0 < await ward.redis.call("PTTL", name) <= 600_000
    for account in "ab":
        await ward.redis.call("ZADD", name, "XX", await _now_ms(ward) + till_ms, account)
    assert await _fail(ward, "ababa") == "open"


async def test_their_failed_probes_lengthen_the_cooling_up_to_a_bound(ward: Ward) -> None:
    assert await _fail(ward, "ababa") == "open"
    left = []
    for account in "babbabcca":
        await ward.due()
        assert await ward.probe("p", account=account) is None
        breaker, _ = await ward.fail("p", account=account)
        left.append(breaker.left_ms)
    # One of another account lengthens it further, and makes that one of them.
    assert left == [20_000, 40_000, *[80_000] * 4, *[160_000] * 3]


async def _now_ms(ward: Ward) -> int:
    seconds, microseconds = await ward.redis.call("TIME")
    return int(seconds) * 1000 + int(microseconds) // 1000


async def test_nobody_probes_before_it_is_due(ward: Ward) -> None:
    assert await ward.probe("p") == Breaker("closed")
    await ward.open()
    seen = await ward.probe("p")
    assert seen is not None
    assert seen.state == "open"


async def test_there_is_one_probe_in_the_fleet(ward: Ward, redis_settings: RedisSettings) -> None:
    await ward.open()
    await ward.due()
    clients = [Redis(redis_settings) for _ in range(4)]
    others = [Ward(client, redis_settings) for client in clients]
    asked = [other.probe(f"p{n}-{m}") for n, other in enumerate(others) for m in range(10)]
    granted = await asyncio.gather(*asked)
    for client in clients:
        await client.close()
    assert granted.count(None) == 1
    assert {seen.state for seen in granted if seen is not None} == {"probing"}
    assert (await ward.report())[_CIRCUIT].state == "probing"


async def test_probe_that_asks_again_still_is_it(ward: Ward) -> None:
    await ward.open()
    await ward.due()
    assert await ward.probe("p") is None
    assert await ward.probe("p") is None


async def test_probe_whose_worker_died_lapses_and_decides_nothing_more(ward: Ward) -> None:
    await ward.open()
    await ward.due()
    assert await ward.probe("dead", lease_ms=1) is None

    async def is_mine() -> bool:
        return await ward.probe("p") is None

    await waiting.until(is_mine)
    ward.end("dead", is_well=True)
    assert (await ward.report())[_CIRCUIT].state == "probing"
    breaker, is_new = await ward.fail("dead")
    assert (breaker.state, is_new) == ("probing", False)


async def test_report_keeps_the_probe_that_is_under_way(ward: Ward) -> None:
    await ward.open()
    await ward.due()
    await ward.probe("p", lease_ms=60)
    await ward.report(probes=((_CIRCUIT, "p"), (_CIRCUIT, "another"), ("unknown", "p")))
    lease = await ward.redis.call("HGET", keys.BREAKER(ward.root, _CIRCUIT), "lease")
    seconds, _ = await ward.redis.call("TIME")
    assert int(lease) > int(seconds) * 1000 + 2_000


# What it comes to


async def test_probe_that_is_answered_closes_it(ward: Ward) -> None:
    await ward.open()
    await ward.due()
    await ward.probe("p")
    for _ in range(2):
        ward.end("p", is_well=True)
    assert await ward.report() == {}
    assert await ward.probe("next") == Breaker("closed")
    told = [(await ward.fail())[0].state for _ in range(5)]
    assert told == ["closed"] * 4 + ["open"]


async def test_probe_that_learnt_nothing_leaves_it_to_the_next(ward: Ward) -> None:
    await ward.open()
    await ward.due()
    await ward.probe("p")
    ward.end("p", is_well=False)
    assert await ward.probe("next") is None


async def test_each_probe_that_fails_doubles_the_cooling_up_to_its_bound(ward: Ward) -> None:
    await ward.open()
    left = []
    for number in range(6):
        await ward.due()
        assert await ward.probe(f"p{number}") is None
        breaker, is_new = await ward.fail(f"p{number}")
        again, is_again = await ward.fail(f"p{number}")
        assert (is_new, is_again, again.state) == (True, False, "open")
        left.append(breaker.left_ms)
    assert left == [20_000, 40_000, 80_000, 160_000, 300_000, 300_000]


async def test_cooling_is_jittered(ward: Ward) -> None:
    shortest, _ = await ward.fail(failures_min=1, chance=0.0, circuit="a/b/c", is_shared=True)
    longest, _ = await ward.fail(failures_min=1, chance=1.0, circuit="a/b/d", is_shared=True)
    assert (shortest.left_ms, longest.left_ms) == (8_000, 12_000)


async def test_calls_from_before_neither_open_nor_close_it(ward: Ward) -> None:
    await ward.open()
    await ward.due()
    assert (await ward.fail())[0].state == "due"
    await ward.probe("p")
    assert (await ward.fail())[0].state == "probing"
    assert (await ward.fail(at_once_ms=99_000))[0].state == "probing"


async def test_probe_that_fails_after_its_first_words_opens_it_again(ward: Ward) -> None:
    await ward.open()
    await ward.due()
    await ward.probe("p")
    ward.end("p", is_well=True)
    breaker, is_new = await ward.fail("p")
    assert (breaker, is_new) == (Breaker("open", 20_000, "timeout"), True)


async def test_breaker_that_nobody_asked_for_is_forgotten(ward: Ward) -> None:
    await ward.open()
    await ward.redis.call("DEL", keys.BREAKER(ward.root, _CIRCUIT))
    assert await ward.report() == {}
    assert await ward.redis.call("EXISTS", keys.COOLING(ward.root)) == 0
