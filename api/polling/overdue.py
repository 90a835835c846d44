"""What only time must end, ended by whoever looks: no worker may be there to do it.

Owns two cases: a deadline that has passed, and a cancel that the worker cannot answer, because its
lease has expired and no worker lives. Both end by the functions that end everything else, which
check again and do it once. Refuses to cost a healthy look anything.
"""

from contextlib import suppress

import msgspec

from api.generation_ref import GenerationRef
from api.state import State
from shared.errors import UnavailableError
from shared.redis import functions
from shared.redis.functions import AlreadyEnded, CancelAsk, Cancelled, ExpireAsk, KeepTimes
from shared.stores import generations
from shared.wire.generation import Generation


async def find_current(state: State, ref: GenerationRef) -> Generation | None:
    """Return an account's generation, or None; one that is overdue has ended by then."""
    generation = await generations.find(state.redis, *ref)
    if generation is None or not await _end_if_overdue(state, ref, generation):
        return generation
    return await generations.find(state.redis, *ref)


async def cancel(state: State, ref: GenerationRef) -> Cancelled | AlreadyEnded | None:
    """Cancel a generation; None when the account has none of that id.

    Where no worker lives that could stop, it ends at once if its lease has expired.
    """
    root, account, generation = ref
    ask = CancelAsk.of(state.settings, account, generation)
    done = await functions.cancel(state.redis, root, ask)
    if not isinstance(done, Cancelled) or done.refunded is not None:
        return done
    # It is asked to stop, whatever becomes of the second look.
    with suppress(UnavailableError):
        if await _has_no_live_worker(state):
            end = msgspec.structs.replace(ask, is_abandoned=True)
            again = await functions.cancel(state.redis, root, end)
            return again if isinstance(again, Cancelled) else done
    return done


async def _end_if_overdue(state: State, ref: GenerationRef, generation: Generation) -> bool:
    """End a generation that is overdue. Return whether it has ended by now."""
    root, account, id_ = ref
    if generation.is_past_deadline:
        ask = ExpireAsk(account=account, id=id_, keep=KeepTimes.of(state.settings.retention))
        return await functions.expire(state.redis, root, ask)
    if generation.is_cancelling and await _has_no_live_worker(state):
        stop = CancelAsk.of(state.settings, account, id_, is_abandoned=True)
        return await functions.cancel(state.redis, root, stop) != Cancelled(None)
    return False


async def _has_no_live_worker(state: State) -> bool:
    return not (await state.fleet()).workers
