"""Opens accounts, dead letters and key repair on the operator's Redis, for the subcommands.

If no Redis is configured, it uses the Redis of the `pollux up` that runs in the state folder.
"""

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from deploy.local import operator_settings, state_folder as folders
from shared.clock import SystemClock
from shared.errors import ConfigurationError, UnavailableError
from shared.redis import library, partitions
from shared.redis.client import Redis
from shared.settings import Settings
from shared.stores.accounts import Accounts
from shared.stores.dead_letters import DeadLetters
from shared.stores.key_repair import KeyRepair

_NO_REDIS_REMEDY: Final = (
    "no Redis is configured: set REDIS_URL, or name the state folder of a running `pollux up` "
    "with --folder"
)


@contextlib.asynccontextmanager
async def open_accounts(folder: Path) -> AsyncIterator[Accounts]:
    """Open the accounts. Raises PolluxError if the settings have faults or Redis is away."""
    async with _connected(folder) as (_, _, accounts):
        yield accounts


@contextlib.asynccontextmanager
async def open_accounts_and_settings(folder: Path) -> AsyncIterator[tuple[Accounts, Settings]]:
    """Open the accounts, with the settings in use. Raises as `open_accounts` does."""
    async with _connected(folder) as (_, settings, accounts):
        yield accounts, settings


@contextlib.asynccontextmanager
async def open_dead_letters(folder: Path) -> AsyncIterator[DeadLetters]:
    """Open the dead letters. Raises as `open_accounts` does."""
    async with _connected(folder) as (redis, settings, accounts):
        yield DeadLetters(redis, accounts, settings)


@contextlib.asynccontextmanager
async def open_key_repair(folder: Path) -> AsyncIterator[KeyRepair]:
    """Open the repair of keys. Raises as `open_accounts` does."""
    async with _connected(folder) as (redis, settings, accounts):
        yield KeyRepair(redis, settings, await accounts.list_accounts(), SystemClock())


@contextlib.asynccontextmanager
async def _connected(folder: Path) -> AsyncIterator[tuple[Redis, Settings, Accounts]]:
    environment = dict(os.environ)
    has_redis = operator_settings.read(environment).has_redis
    if not has_redis:
        environment = folders.running_environment_of(folder) | environment
    settings = Settings.read(environment)
    pepper = environment.get(settings.auth.pepper_env, "").encode()
    try:
        redis = Redis(settings.redis)
        await redis.connect()
    except ValueError as error:
        raise ConfigurationError([f"redis.url: {error}"]) from None
    except UnavailableError as error:
        if has_redis:
            raise
        raise UnavailableError(f"{error.message}; {_NO_REDIS_REMEDY}") from None
    try:
        await library.load(redis)
        await partitions.register_count(redis, settings.redis, may_raise=False)
        yield redis, settings, Accounts(redis, settings.redis, pepper, SystemClock())
    finally:
        await redis.close()
