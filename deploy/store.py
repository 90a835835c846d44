"""The accounts, as the commands of an operator reach them.

Without a Redis named, the commands speak to the system that runs in the folder of `pollux up`.
"""

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from deploy.local import folder as folders, named
from shared.clock import SystemClock
from shared.errors import ConfigurationError
from shared.redis import library
from shared.redis.client import Redis
from shared.settings import Settings
from shared.stores.accounts import Accounts


@contextlib.asynccontextmanager
async def accounts(folder: Path) -> AsyncIterator[Accounts]:
    """Open the accounts; raises PolluxError when the settings are faulty or Redis is away."""
    environment = dict(os.environ)
    if not named.read(environment).has_redis:
        environment = folders.environment_of_running(folder) | environment
    settings = Settings.read(environment)
    pepper = environment.get(settings.auth.pepper_env, "").encode()
    try:
        redis = Redis(settings.redis)
        await redis.connect()
    except ValueError as error:
        raise ConfigurationError([f"redis.url: {error}"]) from None
    try:
        await library.load(redis)
        yield Accounts(redis, settings.redis, pepper, SystemClock())
    finally:
        await redis.close()
