"""Accounts that create API keys of their own, and how release 0.6.1 creates and revokes keys."""

import msgspec

from shared import ids
from shared.clock import SystemClock
from shared.redis import keys
from shared.redis.client import Redis
from shared.redis.functions import KeyRefused
from shared.settings import RedisSettings
from shared.stores.accounts import Accounts, CreatedKey, NewKey
from shared.wire.account import Account, ApiKey, Scope
from tests.support.redis_functions import LONG_MS

_MANAGING: tuple[Scope, ...] = ("chat", "read", "keys")


class OldKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The record of a key as release 0.6.1 reads and writes it."""

    id: str
    account: str
    scopes: tuple[Scope, ...]
    created: int
    expires: int | None = None
    revoked: int | None = None


class OwnKeys:
    """An account, and one of its keys (`managing_key`) with the right to create others."""

    def __init__(self, redis: Redis, settings: RedisSettings) -> None:
        self.redis = redis
        self.root = keys.system_root(settings)
        self.accounts = Accounts(redis, settings, b"pepper", SystemClock())

    async def open(self) -> None:
        self.account = await self.accounts.create("acme", None)
        self.managing_key = await self.create_managing_key(self.account)

    async def create_managing_key(self, account: Account, expires_ms: int | None = None) -> ApiKey:
        made = await self.accounts.create_key(account, _MANAGING, expires_ms=expires_ms)
        return await self.record(made.key)

    async def record(self, key: str) -> ApiKey:
        found = await self.accounts.authenticate(key)
        assert found is not None
        return found[0]

    async def make(
        self,
        by: ApiKey | None = None,
        *,
        keys_max: int = 100,
        scopes: tuple[Scope, ...] = ("read",),
        expires: int | None = None,
        name: str | None = None,
    ) -> CreatedKey | KeyRefused:
        by = by or self.managing_key
        record = ApiKey(
            id=ids.new_id(),
            account=by.account,
            scopes=scopes,
            created=SystemClock().now_ms(),
            expires=expires,
            name=name,
            created_by=by.id,
            receipt="hash",
            receipt_ends=SystemClock().now_ms() + LONG_MS,
        )
        return await self.accounts.create_own_key(record, keys_max)

    async def made(
        self,
        *,
        keys_max: int = 100,
        scopes: tuple[Scope, ...] = ("read",),
        expires: int | None = None,
    ) -> CreatedKey:
        made = await self.make(keys_max=keys_max, scopes=scopes, expires=expires, name="Küche")
        assert isinstance(made, CreatedKey)
        return made

    async def listed(self, account: str = "acme") -> list[str]:
        found, total = await self.accounts.page_own_keys(account, offset=0, limit=100)
        assert total == len(found)
        return [key.id for key in found]

    async def create_as_old_release(
        self, account: str = "acme", *, created: int = 1, expires: int | None = None
    ) -> NewKey:
        """Create a key as release 0.6.1 does."""
        key = ids.new_key()
        record = OldKey(
            id=ids.new_id(), account=account, scopes=("chat",), created=created, expires=expires
        )
        hashed = ids.key_hash(key, b"pepper")
        await self.redis.call("HSET", keys.KEY_IDS(self.root), record.id, hashed)
        where = keys.API_KEY(self.root, hashed)
        await self.redis.call("SET", where, msgspec.msgpack.encode(record))
        return NewKey(key, record.id)

    async def revoke_as_old_release(self, key_id: str) -> None:
        """Revoke a key as release 0.6.1 does."""
        hashed = await self.redis.call("HGET", keys.KEY_IDS(self.root), key_id)
        where = keys.API_KEY(self.root, hashed.decode())
        record = msgspec.msgpack.decode(await self.redis.call("GET", where), type=OldKey)
        revoked = msgspec.structs.replace(record, revoked=1)
        await self.redis.call("SET", where, msgspec.msgpack.encode(revoked))
