"""The accounts, the dead letters and damaged keys, as the commands of an operator reach them.

Without a Redis named, the commands speak to the system that runs in the folder of `pollux up`.
"""

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from deploy.local import operator_settings, state_folder as folders
from shared.clock import SystemClock
from shared.errors import ConfigurationError
from shared.redis import library, partitions
from shared.redis.client import Redis
from shared.settings import Settings
from shared.stores.accounts import Accounts
from shared.stores.dead_letters import DeadLetters
from shared.stores.key_repair import KeyRepair


@contextlib.asynccontextmanager
async def accounts(folder: Path) -> AsyncIterator[Accounts]:
    """Open the accounts; raises PolluxError when the settings are faulty or Redis is away."""
    async with _opened(folder) as (_, _, found):
        yield found


@contextlib.asynccontextmanager
async def accounts_and_settings(folder: Path) -> AsyncIterator[tuple[Accounts, Settings]]:
    """Open the accounts, with the settings that were read for it; raises as `accounts` does."""
    async with _opened(folder) as (_, settings, found):
        yield found, settings


@contextlib.asynccontextmanager
async def dead_letters(folder: Path) -> AsyncIterator[DeadLetters]:
    """Open the dead letters; raises PolluxError as `accounts` does."""
    async with _opened(folder) as (redis, settings, found):
        yield DeadLetters(redis, found, settings)


@contextlib.asynccontextmanager
async def key_repair(folder: Path) -> AsyncIterator[KeyRepair]:
    """Open all keys; raises PolluxError as `accounts` does."""
    async with _opened(folder) as (redis, settings, found):
        yield KeyRepair(redis, settings, await found.list_accounts(), SystemClock())


@contextlib.asynccontextmanager
async def _opened(folder: Path) -> AsyncIterator[tuple[Redis, Settings, Accounts]]:
    environment = dict(os.environ)
    if not operator_settings.read(environment).has_redis:
        environment = folders.running_environment_of(folder) | environment
    settings = Settings.read(environment)
    pepper = environment.get(settings.auth.pepper_env, "").encode()
    try:
        redis = Redis(settings.redis)
        await redis.connect()
    except ValueError as error:
        raise ConfigurationError([f"redis.url: {error}"]) from None
    try:
        await library.load(redis)
        await partitions.register_count(redis, settings.redis, may_raise=False)
        yield redis, settings, Accounts(redis, settings.redis, pepper, SystemClock())
    finally:
        await redis.close()
