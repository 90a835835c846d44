"""Open streams and waits end with their key, on a fake clock and a store that can be away."""

from contextlib import AbstractContextManager
from typing import cast

from api.guards.revocations import OpenKeyUse, Revocations
from shared.errors import Code, RequestError, UnavailableError
from shared.stores.accounts import Accounts
from shared.wire.account import ApiKey
from tests.support.clocks import AdjustableClock


class Records:
    """The keys' records: which are revoked."""

    def __init__(self) -> None:
        self.revoked: set[str] = set()
        self.asked: list[list[str]] = []
        self.is_away = False

    async def find_revoked(self, key_ids: list[str]) -> set[str]:
        if self.is_away:
            raise UnavailableError("away")
        self.asked.append(key_ids)
        return self.revoked & set(key_ids)


class Scene:
    """The open uses of some keys, and the order in which they ended."""

    def __init__(self) -> None:
        self.clock = AdjustableClock()
        self.records = Records()
        self.ended: list[str] = []
        self.revocations = Revocations(cast("Accounts", self.records), self.clock)

    def watch(self, key: str, *, expires: int | None = None) -> AbstractContextManager[OpenKeyUse]:
        record = ApiKey(id=key, account="one", scopes=("chat",), created=0, expires=expires)
        return self.revocations.watch(record, lambda: self.ended.append(key))

    async def pass_seconds(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.revocations.check_open_keys()


def _is_refused(use: OpenKeyUse) -> bool:
    try:
        use.check()
    except RequestError as error:
        return error.code is Code.INVALID_API_KEY
    return False


async def test_all_that_a_revoked_key_has_open_ends_once_and_nobody_elses() -> None:
    scene = Scene()
    with scene.watch("a") as one, scene.watch("a") as two, scene.watch("b") as other:
        scene.revocations.on_message(b"a")
        scene.revocations.on_message(b"a")
        assert scene.ended == ["a", "a"]
        assert _is_refused(one)
        assert _is_refused(two)
        assert not _is_refused(other)


async def test_what_begins_with_a_key_that_was_just_revoked_ends_at_once() -> None:
    scene = Scene()
    scene.revocations.on_message(b"a")
    await scene.pass_seconds(30)
    with scene.watch("a") as use:
        assert use.has_ended
    await scene.pass_seconds(60)
    with scene.watch("a") as use:
        assert not use.has_ended, "it is remembered for good"


async def test_a_key_ends_what_is_open_when_it_expires() -> None:
    scene = Scene()
    expires = scene.clock.now_ms() + 60_000
    with scene.watch("a", expires=expires) as use:
        await scene.pass_seconds(59)
        assert not _is_refused(use)
        await scene.pass_seconds(1.1)
        assert _is_refused(use)


async def test_a_lost_revocation_is_found_after_the_next_subscription() -> None:
    scene = Scene()
    with scene.watch("a") as use, scene.watch("b") as other:
        await scene.revocations.check_open_keys()
        scene.records.revoked = {"a"}
        await scene.pass_seconds(1)
        assert not _is_refused(use)
        scene.revocations.on_message(None)
        scene.records.is_away = True
        await scene.revocations.check_open_keys()
        assert not _is_refused(use)
        scene.records.is_away = False
        await scene.pass_seconds(1)
        assert _is_refused(use)
        assert not _is_refused(other)


async def test_an_unpublished_revocation_is_found_by_the_recheck() -> None:
    scene = Scene()
    with scene.watch("a") as use:
        await scene.revocations.check_open_keys()
        scene.records.revoked = {"a"}
        await scene.pass_seconds(10)
        assert use.has_ended


async def test_redis_is_asked_once_in_a_while_for_all_keys_and_never_without_any() -> None:
    scene = Scene()
    scene.revocations.on_message(None)
    await scene.pass_seconds(20)
    assert scene.records.asked == []
    with scene.watch("a"), scene.watch("a"), scene.watch("b"):
        for _ in range(20):
            await scene.pass_seconds(1)
    assert [sorted(asked) for asked in scene.records.asked] == [["a", "b"]] * 2
