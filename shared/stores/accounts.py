"""Accounts and their API keys.

Owns their records, which belong to the whole deployment, and the credits, which rest in the
account's partition. Refuses to cache: how long a look may be trusted is the caller's decision.
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

# The largest number whose digits Lua keeps; grant.lua has it, too.
GRANTED_MAX: Final = 2**53 - 1
_KEYS_PER_CALL: Final = 500
# So many at a time: the server serves nobody meanwhile.
_ADOPTED_PER_CALL: Final = 100
# Older processes make keys by an operator's hand, so the second round finds all of them listed.
_ROUNDS_MAX: Final = 5
_Reply = TypeVar("_Reply")


class NewKey(NamedTuple):
    """A key just made; `key` is its only copy in clear text."""

    key: str
    key_id: str


class StorageUse(NamedTuple):
    """What an account stores: how many sessions, and the bytes of their content."""

    sessions: int
    stored_bytes: int


class CreatedKey(NamedTuple):
    """A key's record, and the key in clear text; None where an earlier request made it."""

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
        """Return the account of that name. Raises RequestError when there is none."""
        account = await self.find(name)
        if account is None:
            raise RequestError(f"There is no account {name}.", Code.NOT_FOUND)
        return account

    async def list_accounts(self) -> list[Account]:
        """Return every account, by name. Reads all names of the deployment: for operators."""
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
        """Return the account of that name, made if need be; a given tier replaces its own."""
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
        """Store the model that an account prefers, or none. Fronts notice within a second."""
        ask = functions.SetPreferredModelAsk(account=account.id, model=model)
        await functions.set_preferred_model(self._redis, self._root, ask)

    async def create_key(
        self, account: Account, scopes: tuple[Scope, ...], *, expires_ms: int | None = None
    ) -> NewKey:
        """Make a key for an account; the clear text is returned and kept nowhere."""
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
        """Make a key of this record, as the key `created_by` asks; it is good once this returns."""
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
        """Delete a key as another one of its account asks, or the same one.

        Return the hash of the Idempotency-Key that it was made with, empty if there was none.
        Fronts refuse the key within a second, and end what it has open.
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
        """Return an account's keys that are not revoked, last made first, and their number."""
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
        """Return an answer that counts the keys which older processes made, too."""
        for _ in range(_ROUNDS_MAX):
            answer = await ask()
            if not is_missing(answer):
                return answer
            await self._adopt_keys()
        raise UnavailableError("Keys are being made by another version of Pollux.")

    async def _adopt_keys(self) -> None:
        """Put the keys that older processes made into their accounts' lists."""
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
        """Return every key's record, oldest first, revoked ones too."""
        hashes: dict[bytes, bytes] = await self._redis.call("HGETALL", keys.KEY_IDS(self._root))
        found = [
            await self._redis.call("GET", keys.API_KEY(self._root, hashed.decode()))
            for hashed in hashes.values()
        ]
        return sorted(
            (_decode_key(record) for record in found if record), key=lambda key: key.created
        )

    async def revoke_key(self, key_id: str) -> bool:
        """Revoke a key for good; False when there is none.

        Fronts refuse it within a second, and end what it has open.
        """
        ask = functions.RevokeKeyAsk(
            id=key_id, now=self._clock.now_ms(), channel=keys.revocations_channel(self._root)
        )
        return await functions.revoke_key(self._redis, self._root, ask)

    async def find_revoked(self, key_ids: Sequence[str]) -> set[str]:
        """Return which of these keys are revoked, or are no more."""
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
        """Return the records behind a key in clear text, or None when it was never made."""
        hashed = ids.key_hash(key, self._pepper)
        found = await functions.authenticate(
            self._redis, self._root, functions.AuthenticateAsk(hash=hashed)
        )
        return (_decode_key(found[0]), _decode_account(found[1])) if found else None

    async def grant(self, account: Account, microcredits: int) -> int:
        """Give an account credits and return its new balance, in microcredits.

        Raises RequestError where it has not that many to take, or no more can be counted.
        """
        ask = functions.GrantAsk(account=account.id, amount=microcredits)
        balance = await functions.grant(self._redis, self.root_of(account), ask)
        if balance == "too much":
            raise RequestError(
                f"Account {account.id} cannot have been granted more than "
                f"{GRANTED_MAX / MICROCREDITS_PER_CREDIT:,.0f} credits in all.",
                Code.INVALID_FIELDS,
            )
        if balance == "poor":
            raise RequestError(
                f"Account {account.id} has not that many credits to take.",
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
            self._redis.call(
                "HMGET", keys.ACCOUNT_TOTALS(root, account.id), "stored_0", "stored_1"
            ),
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
