"""Accounts, their API keys and their credits.

Owns the records, which belong to the whole deployment, and the credits, which are in the account's
partition. Caches nothing: how long a record may be reused is the caller's decision.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, TypeVar

import msgspec

from shared import ids
from shared.clock import Clock
from shared.errors import Code, RequestError, UnavailableError
from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.redis.functions import KeyRefused
from shared.settings import RedisSettings
from shared.stores import ledger
from shared.stores.ledger import TimedEntry
from shared.tiers import TierName
from shared.wire.account import MICROCREDITS_PER_CREDIT, Account, ApiKey, CreditTotals, Scope

_encode = msgspec.msgpack.Encoder().encode
_decode_key = msgspec.msgpack.Decoder(ApiKey).decode
_decode_account = msgspec.msgpack.Decoder(Account).decode

# The largest integer that Lua keeps exactly; grant.lua has the same bound.
GRANTED_MAX: Final = 2**53 - 1
_KEYS_PER_CALL: Final = 500
# So many in one call, since Redis serves nobody else meanwhile.
_ADOPTED_PER_CALL: Final = 100
# Only operators make keys with older versions, so the second round normally finds all of them
# listed.
_ROUNDS_MAX: Final = 5
_Reply = TypeVar("_Reply")


class NewKey(NamedTuple):
    """A key just made; `key` is its only copy in clear text."""

    key: str
    key_id: str


# The sums of what sessions and batches store, in bytes.
_STORED_FIELDS: Final = ("stored_0", "stored_1", "stored_batches")


class StorageUse(NamedTuple):
    """What an account stores: its number of sessions, and the bytes of their content."""

    sessions: int
    stored_bytes: int


class CreatedKey(NamedTuple):
    """A key's record, and the key in clear text; None where an earlier request had made it."""

    record: ApiKey
    key: str | None


class Accounts:
    """The accounts and keys of one deployment."""

    def __init__(
        self, redis: Connection, settings: RedisSettings, pepper: bytes, clock: Clock
    ) -> None:
        self._redis = redis
        self._settings = settings
        self._root = keys.system_root(settings)
        self._pepper = pepper
        self._clock = clock
        self._adopting = asyncio.Lock()

    def root_of(self, account: Account) -> str:
        """Return the root of the partition that holds the account's keys."""
        return keys.partition_root(self._settings, account.partition)

    async def find(self, name: str) -> Account | None:
        """Return the account of that name, or None."""
        record: bytes | None = await self._redis.call("GET", keys.ACCOUNT(self._root, name))
        return _decode_account(record) if record else None

    async def load(self, name: str) -> Account:
        """Return the account of that name. Raises RequestError where there is none."""
        account = await self.find(name)
        if account is None:
            raise RequestError(f"There is no account {name}.", Code.NOT_FOUND)
        return account

    async def list_accounts(self) -> list[Account]:
        """Return every account, sorted by name. Scans the whole deployment: for operators."""
        found: dict[str, Account] = {}
        cursor: bytes | int = 0
        pattern = keys.ACCOUNT(self._root, "*")
        while True:
            cursor, names = await self._redis.call("SCAN", cursor, "MATCH", pattern, "COUNT", 500)
            records = await self._redis.call("MGET", *names) if names else []
            found |= {each.id: each for each in map(_decode_account, filter(None, records))}
            if int(cursor) == 0:
                return [found[name] for name in sorted(found)]

    async def create(self, name: str, tier: TierName | None) -> Account:
        """Return the account of that name, created if missing; a given tier replaces its own."""
        if not ids.is_id(name):
            raise RequestError(
                f"{name!r} is not an account's name ({ids.ID_PATTERN}).", Code.INVALID_FIELDS
            )
        fresh = Account(
            id=name,
            tier=tier or "free",
            partition=secrets.randbelow(self._settings.partitions),
            created=self._clock.now_ms(),
        )
        ask = functions.CreateAccountAsk(account=name, tier=tier)
        record = await functions.create_account(self._redis, self._root, ask, _encode(fresh))
        return _decode_account(record)

    async def prefer(self, account: Account, model: str | None) -> None:
        """Store an account's preferred model, or None. API processes notice within a second."""
        ask = functions.SetPreferredModelAsk(account=account.id, model=model)
        await functions.set_preferred_model(self._redis, self._root, ask)

    async def create_key(
        self, account: Account, scopes: tuple[Scope, ...], *, expires_ms: int | None = None
    ) -> NewKey:
        """Make a key for an account; the clear text is returned and stored nowhere."""
        key = ids.new_key()
        record = ApiKey(
            id=ids.new_id(),
            account=account.id,
            scopes=scopes,
            created=self._clock.now_ms(),
            expires=expires_ms,
        )
        hashed = ids.key_hash(key, self._pepper)
        ask = functions.CreateKeyAsk(hash=hashed)
        await functions.create_key(self._redis, self._root, ask, _encode(record))
        return NewKey(key, record.id)

    async def create_own_key(self, record: ApiKey, keys_max: int) -> CreatedKey | KeyRefused:
        """Make a key that the key `created_by` asks for; it is valid once this returns."""
        key = ids.new_key()
        ask = functions.CreateOwnKeyAsk(hash=ids.key_hash(key, self._pepper), keys_max=keys_max)
        encoded = _encode(record)
        refused = await self._with_all_listed(
            lambda: functions.create_own_key(self._redis, self._root, ask, encoded),
            lambda answer: isinstance(answer, KeyRefused) and answer.reason == "missing",
        )
        if refused is None:
            return CreatedKey(record, key)
        if refused.reason == "exists":
            return CreatedKey(_decode_key(refused.about), None)
        return refused

    async def delete_own_key(self, by: ApiKey, key_id: str) -> str | KeyRefused:
        """Delete a key at the request of another key of its account, or of itself.

        Return the hash of the Idempotency-Key with which it was made, or an empty text. API
        processes refuse the key within a second, and end its open streams and waits.
        """
        ask = functions.DeleteOwnKeyAsk(
            account=by.account,
            by=by.id,
            id=key_id,
            call=ids.new_id(),
            channel=keys.revocations_channel(self._root),
        )
        return await self._with_all_listed(
            lambda: functions.delete_own_key(self._redis, self._root, ask),
            lambda answer: isinstance(answer, KeyRefused) and answer.reason == "missing",
        )

    async def page_own_keys(
        self, account: str, *, offset: int, limit: int
    ) -> tuple[list[ApiKey], int]:
        """Return a page of an account's unrevoked keys, newest first, and their number."""
        ask = functions.ListOwnKeysAsk(account=account, offset=offset, limit=limit)
        found = await self._with_all_listed(
            lambda: functions.list_own_keys(self._redis, self._root, ask),
            lambda answer: answer.missing != 0,
        )
        return [_decode_key(record) for record in found.records], found.total

    async def list_own_keys(self, account: str) -> list[ApiKey]:
        """Return all of an account's keys that are not revoked, oldest first."""
        found: list[ApiKey] = []
        while True:
            page, total = await self.page_own_keys(account, offset=len(found), limit=_KEYS_PER_CALL)
            found += page
            if not page or len(found) >= total:
                return found[::-1]

    async def find_key(self, key_id: str) -> ApiKey | None:
        """Return a key's record by its id, or None."""
        hashed = await self._redis.call("HGET", keys.KEY_IDS(self._root), key_id)
        if hashed is None:
            return None
        record = await self._redis.call("GET", keys.API_KEY(self._root, hashed.decode()))
        return _decode_key(record) if record else None

    async def _with_all_listed(
        self, ask: Callable[[], Awaitable[_Reply]], is_missing: Callable[[_Reply], bool]
    ) -> _Reply:
        """Return a reply that includes keys made by older versions, which did not list them."""
        for _ in range(_ROUNDS_MAX):
            answer = await ask()
            if not is_missing(answer):
                return answer
            await self._adopt_keys()
        raise UnavailableError("Keys are being made by another version of Pollux.")

    async def _adopt_keys(self) -> None:
        """Add keys made by older versions to their accounts' lists."""
        async with self._adopting:
            missing = await self._adopt(())
            if not missing:
                return
            found = await self._redis.call("HKEYS", keys.KEY_IDS(self._root))
            made = [each.decode() for each in found]
            for first in range(0, len(made), _ADOPTED_PER_CALL):
                await self._adopt(made[first : first + _ADOPTED_PER_CALL])
            await self._adopt((), missing)

    async def _adopt(self, key_ids: Sequence[str], missing: int | None = None) -> int:
        ask = functions.AdoptKeysAsk(ids=key_ids, missing=missing)
        return await functions.adopt_keys(self._redis, self._root, ask)

    async def list_keys(self) -> list[ApiKey]:
        """Return every key's record, oldest first, including revoked ones."""
        hashes: dict[bytes, bytes] = await self._redis.call("HGETALL", keys.KEY_IDS(self._root))
        found = [
            await self._redis.call("GET", keys.API_KEY(self._root, hashed.decode()))
            for hashed in hashes.values()
        ]
        return sorted(
            (_decode_key(record) for record in found if record), key=lambda key: key.created
        )

    async def revoke_key(self, key_id: str) -> bool:
        """Revoke a key for good; False where there is none.

        API processes refuse it within a second, and end its open streams and waits.
        """
        ask = functions.RevokeKeyAsk(
            id=key_id, now=self._clock.now_ms(), channel=keys.revocations_channel(self._root)
        )
        return await functions.revoke_key(self._redis, self._root, ask)

    async def find_revoked(self, key_ids: Sequence[str]) -> set[str]:
        """Return which of these keys are revoked or deleted."""
        found: set[str] = set()
        for first in range(0, len(key_ids), _KEYS_PER_CALL):
            some = key_ids[first : first + _KEYS_PER_CALL]
            hashes = await self._redis.call("HMGET", keys.KEY_IDS(self._root), *some)
            names = [keys.API_KEY(self._root, (each or b"").decode()) for each in hashes]
            records = await self._redis.call("MGET", *names)
            found |= {
                key_id
                for key_id, record in zip(some, records, strict=True)
                if record is None or _decode_key(record).revoked is not None
            }
        return found

    async def authenticate(self, key: str) -> tuple[ApiKey, Account] | None:
        """Return the records of a key in clear text and its account; None for an unknown key."""
        hashed = ids.key_hash(key, self._pepper)
        found = await functions.authenticate(
            self._redis, self._root, functions.AuthenticateAsk(hash=hashed)
        )
        return (_decode_key(found[0]), _decode_account(found[1])) if found else None

    async def grant(self, account: Account, microcredits: int) -> int:
        """Grant an account microcredits, or take some back; return the new balance.

        Raises RequestError where the balance is less than what is taken, or the total would be too
        large.
        """
        ask = functions.GrantAsk(account=account.id, amount=microcredits)
        balance = await functions.grant(self._redis, self.root_of(account), ask)
        if balance == "too much":
            raise RequestError(
                f"Account {account.id} cannot be granted more than "
                f"{GRANTED_MAX / MICROCREDITS_PER_CREDIT:,.0f} credits in all.",
                Code.INVALID_FIELDS,
            )
        if balance == "poor":
            raise RequestError(
                f"Account {account.id} has fewer credits than that.",
                Code.INSUFFICIENT_CREDITS,
            )
        return balance

    async def ledger(self, account: Account, count: int) -> list[TimedEntry]:
        """Return an account's last grants and charges, newest first."""
        return await ledger.last(self._redis, self.root_of(account), account.id, count)

    async def stored(self, account: Account) -> StorageUse:
        """Return how much of its quotas an account uses."""
        root = self.root_of(account)
        sessions, sums = await asyncio.gather(
            self._redis.call("ZCARD", keys.SESSIONS(root, account.id)),
            self._redis.call("HMGET", keys.ACCOUNT_TOTALS(root, account.id), *_STORED_FIELDS),
        )
        return StorageUse(sessions, sum(int(each or 0) for each in sums))

    async def credit_totals(self, account: Account) -> CreditTotals:
        """Return an account's credits."""
        fields: dict[bytes, bytes] = await self._redis.call(
            "HGETALL", keys.ACCOUNT_TOTALS(self.root_of(account), account.id)
        )
        return msgspec.convert(
            {name.decode(): int(value) for name, value in fields.items() if b"_" not in name},
            CreditTotals,
        )
