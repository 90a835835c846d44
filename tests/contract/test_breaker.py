"""The breaker of a circuit: when it opens, who may probe it, and what closes it again."""

import asyncio
from typing import Any

import msgspec
import pytest

from shared.redis import functions, keys
from shared.redis.client import Redis
from shared.redis.functions import BeginProbeAsk, Breaker, EndProbeAsk, RecordFailureAsk
from shared.settings import RedisSettings
from shared.stores import fleet
from shared.stores.fleet import CallReport
from shared.wire.fleet import WorkerReport
from tests.support import waiting

_CIRCUIT = "scripted/alpha/open"
_LEASE_MS = 5_000
_FAILED = RecordFailureAsk(
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


class BreakerClient:
    """The breakers of a deployment, with the usual arguments filled in."""

    def __init__(self, redis: Redis, settings: RedisSettings) -> None:
        self.redis = redis
        self.settings = settings
        self.root = keys.system_root(settings)
        self._made = 0
        self.circuit = ""

    async def fail(self, call: str = "", **fields: Any) -> tuple[Breaker, bool]:  # noqa: ANN401  of any field
        """Record a failure: of a new call, message and account unless they are named."""
        self._made += 1
        call = call or f"call-{self._made}"
        own = {"call": call, "message": call, "account": f"account-{call}"}
        ask = msgspec.structs.replace(_FAILED, **(own | fields))
        results = await functions.record_failure(self.redis, self.root, ask)
        self.circuit = results.circuit
        return results.breaker, results.is_new

    async def open(self) -> None:
        """Record enough failures to open the breaker."""
        for _ in range(_FAILED.failures_min):
            await self.fail()

    async def due(self) -> None:
        """Move the end of the cooling into the past."""
        await self.redis.call("HSET", keys.BREAKER(self.root, _CIRCUIT), "due", 1)

    async def probe(
        self, call: str, lease_ms: int = _LEASE_MS, *, account: str = "prober"
    ) -> Breaker | None:
        """Ask to make the probe."""
        ask = BeginProbeAsk(circuit=_CIRCUIT, call=call, account=account, lease_ms=lease_ms)
        return await functions.begin_probe(self.redis, self.root, ask)

    def end(self, call: str, *, is_well: bool) -> None:
        """End a probe."""
        ask = EndProbeAsk(circuit=_CIRCUIT, call=call, is_well=is_well)
        functions.end_probe(self.redis, self.root, ask)

    async def report(self, made_ms: int = 1, **results: Any) -> dict[str, Breaker]:  # noqa: ANN401  of any field
        """Report as a worker, and return the breakers in the reply."""
        worker_report = WorkerReport(
            id="w1", concurrency=1, running=0, models=(), wire=1, made_ms=made_ms
        )
        calls = CallReport(lease_ms=_LEASE_MS, window_ms=_FAILED.window_ms)._replace(**results)
        return (await fleet.report(self.redis, self.settings, worker_report, calls)).breakers


@pytest.fixture
def breaker_client(redis: Redis, redis_settings: RedisSettings) -> BreakerClient:
    return BreakerClient(redis, redis_settings)


# What opens it


async def test_enough_failures_open_it_once_for_all_workers(
    breaker_client: BreakerClient,
) -> None:
    results = [await breaker_client.fail() for _ in range(7)]
    assert [breaker.state for breaker, _ in results] == ["closed"] * 4 + ["open"] * 3
    assert [is_new for _, is_new in results] == [False] * 4 + [True] + [False] * 2
    assert results[4][0].left_ms == 10_000
    breakers = await breaker_client.report()
    assert breakers[_CIRCUIT].state == "open"
    assert breakers[_CIRCUIT].why == "timeout"
    assert 9_000 < breakers[_CIRCUIT].left_ms <= 10_000


async def test_the_same_failure_counts_once(breaker_client: BreakerClient) -> None:
    results = [(await breaker_client.fail("one"))[0].state for _ in range(9)]
    assert set(results) == {"closed"}


async def test_of_many_at_once_one_opens(breaker_client: BreakerClient) -> None:
    results = await asyncio.gather(*(breaker_client.fail() for _ in range(40)))
    assert sum(is_new for _, is_new in results) == 1
    assert [breaker.state for breaker, _ in results].count("closed") == 4


@pytest.mark.parametrize(("answered", "state"), [(5, "open"), (6, "closed")])
async def test_answered_calls_count_against_the_failures(
    breaker_client: BreakerClient, answered: int, state: str
) -> None:
    await breaker_client.report(answered=((_CIRCUIT, answered), ("another", 100)))
    results = [(await breaker_client.fail())[0].state for _ in range(5)]
    assert results[-1] == state


async def test_answered_calls_that_no_report_has_counted_yet_count_too(
    breaker_client: BreakerClient,
) -> None:
    await breaker_client.report(answered=((_CIRCUIT, 3),))
    results = [(await breaker_client.fail(answered=3))[0].state for _ in range(5)]
    assert results[-1] == "closed"
    assert (await breaker_client.fail(answered=3))[0].state == "open"


async def test_report_that_is_sent_again_counts_once(breaker_client: BreakerClient) -> None:
    for made_ms in (1, 1, 1, 2, 2):
        await breaker_client.report(made_ms, answered=((_CIRCUIT, 2),))
    found = await breaker_client.redis.call(
        "KEYS", keys.SUCCESSES(breaker_client.root, _CIRCUIT, "*")
    )
    counts = [int(await breaker_client.redis.call("GET", name)) for name in found]
    assert sum(counts) == 4


async def test_old_failures_do_not_count(breaker_client: BreakerClient) -> None:
    for _ in range(4):
        await breaker_client.fail()
    name = keys.FAILED_MESSAGES(breaker_client.root, _CIRCUIT)
    for call in await breaker_client.redis.call("ZRANGE", name, 0, -1):
        await breaker_client.redis.call("ZADD", name, 1, call)
    breaker, _ = await breaker_client.fail()
    assert breaker.state == "closed"
    assert await breaker_client.redis.call("ZCARD", name) == 1


async def test_some_failures_open_it_at_once_for_a_given_time(
    breaker_client: BreakerClient,
) -> None:
    breaker, is_new = await breaker_client.fail(why="auth", at_once_ms=60_000)
    assert (breaker, is_new) == (Breaker("open", 60_000, "auth"), True)


async def test_tries_of_one_message_count_once(breaker_client: BreakerClient) -> None:
    results = [(await breaker_client.fail(message="one", account="ann"))[0].state for _ in range(9)]
    assert set(results) == {"closed"}


async def test_messages_of_one_account_open_it_for_that_account_only(
    breaker_client: BreakerClient,
) -> None:
    results = [await breaker_client.fail(account="ann") for _ in range(3)]
    assert [breaker.state for breaker, _ in results] == ["closed", "closed", "open"]
    assert breaker_client.circuit == f"{_CIRCUIT}@ann"
    for _ in range(20):
        await breaker_client.fail(account="ann")
    assert set(await breaker_client.report()) == {f"{_CIRCUIT}@ann"}


async def test_an_account_that_is_mostly_answered_is_not_slowed(
    breaker_client: BreakerClient,
) -> None:
    results = [
        (await breaker_client.fail(account="ann", answered_own=10))[0].state for _ in range(5)
    ]
    assert set(results) == {"closed"}


async def test_messages_of_two_accounts_open_it_for_all(breaker_client: BreakerClient) -> None:
    for _ in range(4):
        await breaker_client.fail(account="ann")
    breaker, is_new = await breaker_client.fail(account="bob")
    assert (breaker.state, is_new, breaker_client.circuit) == ("open", True, _CIRCUIT)


async def test_failure_that_no_prompt_can_cause_counts_for_all_even_from_one_account(
    breaker_client: BreakerClient,
) -> None:
    results = [
        (await breaker_client.fail(account="ann", is_shared=True))[0].state for _ in range(5)
    ]
    assert results[-1] == "open"
    assert breaker_client.circuit == _CIRCUIT


# Which call probes it


async def test_suspect_accounts_probe_after_others_and_the_last_opener_last(
    breaker_client: BreakerClient,
) -> None:
    for account in ("bob", "ann", "ann", "ann", "ann"):
        await breaker_client.fail(account=account, account_min=99)
    await breaker_client.redis.call(
        "HSET", keys.BREAKER(breaker_client.root, _CIRCUIT), "due", await _now_ms(breaker_client)
    )
    for account, most in (("ann", 5_000), ("bob", 2_000)):
        seen = await breaker_client.probe(f"of-{account}", account=account)
        assert seen is not None
        assert (seen.state, most - 2_000 < seen.left_ms <= most) == ("open", True)
    assert await breaker_client.probe("of-carl", account="carl") is None


async def test_suspect_account_probes_where_no_other_does(breaker_client: BreakerClient) -> None:
    for account in ("bob", "ann", "ann", "ann", "ann"):
        await breaker_client.fail(account=account, account_min=99)
    await breaker_client.due()
    assert await breaker_client.probe("of-ann", account="ann") is None


# Suspect accounts


async def _fail(breaker_client: BreakerClient, accounts: str, **fields: Any) -> str:  # noqa: ANN401  of any field
    """Record a failed message of each account; return the state after the last."""
    states = [
        (await breaker_client.fail(account=account, account_min=99, **fields))[0].state
        for account in accounts
    ]
    return states[-1]


async def _opened_and_closed(breaker_client: BreakerClient, accounts: str) -> None:
    """Have these accounts open the breaker, and another account's probe close it again."""
    assert await _fail(breaker_client, accounts) == "open"
    await breaker_client.due()
    assert await breaker_client.probe("well") is None
    breaker_client.end("well", is_well=True)
    assert await breaker_client.report() == {}


async def test_suspect_accounts_do_not_open_it_again_by_themselves(
    breaker_client: BreakerClient,
) -> None:
    await _opened_and_closed(breaker_client, "ababa")
    assert await _fail(breaker_client, "ab" * 10) == "closed"
    # When a message of another account fails as well, it is an outage.
    assert await _fail(breaker_client, "c") == "open"


@pytest.mark.parametrize(("accounts", "state"), [("abcabc", "closed"), ("abcdab", "open")])
async def test_more_than_three_suspect_accounts_at_once_open_it(
    breaker_client: BreakerClient, accounts: str, state: str
) -> None:
    await _opened_and_closed(breaker_client, "abcde")
    assert await _fail(breaker_client, accounts) == state


async def test_failure_that_no_prompt_can_cause_opens_it_from_any_account(
    breaker_client: BreakerClient,
) -> None:
    await _opened_and_closed(breaker_client, "ababa")
    assert await _fail(breaker_client, "aaaaa", is_shared=True) == "open"


@pytest.mark.parametrize("till_ms", [-1, 3_600_000])
async def test_suspicion_of_accounts_expires(breaker_client: BreakerClient, till_ms: int) -> None:
    """Accounts are suspect for ten minutes, and not after the clock was set back by more."""
    await _opened_and_closed(breaker_client, "ababa")
    name = keys.SUSPECT_ACCOUNTS(breaker_client.root, _CIRCUIT)
    assert 0 < await breaker_client.redis.call("PTTL", name) <= 600_000
    for account in "ab":
        await breaker_client.redis.call(
            "ZADD", name, "XX", await _now_ms(breaker_client) + till_ms, account
        )
    assert await _fail(breaker_client, "ababa") == "open"


async def test_failed_probes_of_suspect_accounts_lengthen_the_cooling_up_to_a_bound(
    breaker_client: BreakerClient,
) -> None:
    assert await _fail(breaker_client, "ababa") == "open"
    left = []
    for account in "babbabcca":
        await breaker_client.due()
        assert await breaker_client.probe("p", account=account) is None
        breaker, _ = await breaker_client.fail("p", account=account)
        left.append(breaker.left_ms)
    # A failed probe of another account lengthens it further, and makes that account suspect.
    assert left == [20_000, 40_000, *[80_000] * 4, *[160_000] * 3]


async def _now_ms(breaker_client: BreakerClient) -> int:
    seconds, microseconds = await breaker_client.redis.call("TIME")
    return int(seconds) * 1000 + int(microseconds) // 1000


async def test_no_call_probes_before_it_is_due(breaker_client: BreakerClient) -> None:
    assert await breaker_client.probe("p") == Breaker("closed")
    await breaker_client.open()
    seen = await breaker_client.probe("p")
    assert seen is not None
    assert seen.state == "open"


async def test_there_is_one_probe_in_the_fleet(
    breaker_client: BreakerClient, redis_settings: RedisSettings
) -> None:
    await breaker_client.open()
    await breaker_client.due()
    clients = [Redis(redis_settings) for _ in range(4)]
    others = [BreakerClient(client, redis_settings) for client in clients]
    asked = [other.probe(f"p{n}-{m}") for n, other in enumerate(others) for m in range(10)]
    granted = await asyncio.gather(*asked)
    for client in clients:
        await client.close()
    assert granted.count(None) == 1
    assert {seen.state for seen in granted if seen is not None} == {"probing"}
    assert (await breaker_client.report())[_CIRCUIT].state == "probing"


async def test_repeated_request_of_the_probe_is_granted_again(
    breaker_client: BreakerClient,
) -> None:
    await breaker_client.open()
    await breaker_client.due()
    assert await breaker_client.probe("p") is None
    assert await breaker_client.probe("p") is None


async def test_probe_whose_worker_died_expires_and_decides_nothing(
    breaker_client: BreakerClient,
) -> None:
    await breaker_client.open()
    await breaker_client.due()
    assert await breaker_client.probe("dead", lease_ms=1) is None

    async def is_mine() -> bool:
        return await breaker_client.probe("p") is None

    await waiting.until(is_mine)
    breaker_client.end("dead", is_well=True)
    assert (await breaker_client.report())[_CIRCUIT].state == "probing"
    breaker, is_new = await breaker_client.fail("dead")
    assert (breaker.state, is_new) == ("probing", False)


async def test_report_keeps_the_probe_that_is_under_way(breaker_client: BreakerClient) -> None:
    await breaker_client.open()
    await breaker_client.due()
    await breaker_client.probe("p", lease_ms=60)
    await breaker_client.report(probes=((_CIRCUIT, "p"), (_CIRCUIT, "another"), ("unknown", "p")))
    lease = await breaker_client.redis.call(
        "HGET", keys.BREAKER(breaker_client.root, _CIRCUIT), "lease"
    )
    seconds, _ = await breaker_client.redis.call("TIME")
    assert int(lease) > int(seconds) * 1000 + 2_000


# Results of a probe


async def test_probe_that_is_answered_closes_it(breaker_client: BreakerClient) -> None:
    await breaker_client.open()
    await breaker_client.due()
    await breaker_client.probe("p")
    for _ in range(2):
        breaker_client.end("p", is_well=True)
    assert await breaker_client.report() == {}
    assert await breaker_client.probe("next") == Breaker("closed")
    results = [(await breaker_client.fail())[0].state for _ in range(5)]
    assert results == ["closed"] * 4 + ["open"]


async def test_probe_that_learned_nothing_leaves_it_to_the_next(
    breaker_client: BreakerClient,
) -> None:
    await breaker_client.open()
    await breaker_client.due()
    await breaker_client.probe("p")
    breaker_client.end("p", is_well=False)
    assert await breaker_client.probe("next") is None


async def test_each_probe_that_fails_doubles_the_cooling_up_to_its_bound(
    breaker_client: BreakerClient,
) -> None:
    await breaker_client.open()
    left = []
    for number in range(6):
        await breaker_client.due()
        assert await breaker_client.probe(f"p{number}") is None
        breaker, is_new = await breaker_client.fail(f"p{number}")
        again, is_again = await breaker_client.fail(f"p{number}")
        assert (is_new, is_again, again.state) == (True, False, "open")
        left.append(breaker.left_ms)
    assert left == [20_000, 40_000, 80_000, 160_000, 300_000, 300_000]


async def test_cooling_is_jittered(breaker_client: BreakerClient) -> None:
    shortest, _ = await breaker_client.fail(
        failures_min=1, chance=0.0, circuit="a/b/c", is_shared=True
    )
    longest, _ = await breaker_client.fail(
        failures_min=1, chance=1.0, circuit="a/b/d", is_shared=True
    )
    assert (shortest.left_ms, longest.left_ms) == (8_000, 12_000)


async def test_calls_that_began_before_neither_open_nor_close_it(
    breaker_client: BreakerClient,
) -> None:
    await breaker_client.open()
    await breaker_client.due()
    assert (await breaker_client.fail())[0].state == "due"
    await breaker_client.probe("p")
    assert (await breaker_client.fail())[0].state == "probing"
    assert (await breaker_client.fail(at_once_ms=99_000))[0].state == "probing"


async def test_probe_that_fails_after_its_first_words_opens_it_again(
    breaker_client: BreakerClient,
) -> None:
    await breaker_client.open()
    await breaker_client.due()
    await breaker_client.probe("p")
    breaker_client.end("p", is_well=True)
    breaker, is_new = await breaker_client.fail("p")
    assert (breaker, is_new) == (Breaker("open", 20_000, "timeout"), True)


async def test_breaker_that_nobody_asks_for_expires(breaker_client: BreakerClient) -> None:
    await breaker_client.open()
    await breaker_client.redis.call("DEL", keys.BREAKER(breaker_client.root, _CIRCUIT))
    assert await breaker_client.report() == {}
    assert await breaker_client.redis.call("EXISTS", keys.COOLING(breaker_client.root)) == 0
