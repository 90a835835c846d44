"""`status` returns the model that this attempt has chosen, not an earlier attempt's."""

from shared.redis import functions, keys
from shared.redis.functions import Claimed
from shared.stores import generations
from shared.wire import event as events
from shared.wire.generation import Generation
from shared.wire.routing import Routing
from tests.support.redis_functions import RedisFunctions, Ticket


def _routing(chosen: str) -> Routing:
    return Routing(policy="catalogue_order", chosen=chosen, category="chat", reason="It is.")


async def _append(queue: RedisFunctions, claimed: Claimed, seq: int, *chosen: str) -> None:
    """Append a stage and choices of models, of which the last is stored."""
    appended: list[events.Event] = [events.StageChanged("generating")]
    appended += [events.Routed(_routing(each)) for each in chosen]
    ask = functions.AppendAsk(
        account=claimed.account,
        id=claimed.id,
        attempt=claimed.attempt,
        seq=seq,
        events=[events.encode(each) for each in appended],
        stage="generating",
        routed=seq + len(chosen) if chosen else None,
    )
    assert await functions.append(queue.redis, queue.root, ask) == "appended"


async def _find(queue: RedisFunctions, ticket: Ticket) -> Generation:
    found = await generations.find(queue.redis, queue.root, ticket.account, ticket.id)
    assert found is not None
    return found


async def test_status_returns_the_choice_while_its_attempt_runs(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    claimed = await queue.claim_one()
    await _append(queue, claimed, 1)
    assert (await _find(queue, ticket)).routed is None
    await _append(queue, claimed, 2, "alpha", "beta")
    assert (await _find(queue, ticket)).routed == _routing("beta")
    await _append(queue, claimed, 5)
    assert (await _find(queue, ticket)).routed == _routing("beta")
    await queue.release(claimed)
    again = await queue.claim_one()
    assert (await _find(queue, ticket)).routed is None
    await _append(queue, again, 2, "alpha")
    assert (await _find(queue, ticket)).routed == _routing("alpha")
    await queue.settle(again, seq=4, text="Hi")
    where = keys.GENERATION(queue.root, ticket.account, ticket.id)
    assert await queue.redis.call("HEXISTS", where, "routed") == 0


async def test_choice_that_cannot_be_read_is_none(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    claimed = await queue.claim_one()
    await _append(queue, claimed, 1, "alpha")
    where = keys.GENERATION(queue.root, ticket.account, ticket.id)
    for noted in ("1-1", "1-9", "1", "x", ""):
        await queue.redis.call("HSET", where, "routed", noted)
        assert (await _find(queue, ticket)).routed is None
