"""Is this server fit to hold the record?

Owns the conditions: new enough for functions, never evicting, letting us publish, and as durable
as the settings promise; and what each name of durability means, in one line. A deployment that
wants less says so by name: `everysec`, or `none`.

DESIGN. With `appendfsync everysec`, Redis' own default, a server answers before it writes as long
as the disk is busy with the sync of the second before, for two seconds at most. Who kills its
process then loses what was acknowledged, though no machine failed: so `process` warns of it, and
tells what holds then. With `no` and with `always` each write is the kernel's before its reply
leaves.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from shared.errors import ConfigurationError, NotNowError, StoreError, UnavailableError
from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.settings import Durability, RedisSettings
from shared.telemetry import logs

VERSION_MIN: Final = (7, 0)
GUARANTEES: Final[dict[Durability, str]] = {
    "process": "what was accepted survives the death of Redis' process, not of its machine",
    "fsync": "what was accepted survives the death of Redis' process and of its machine",
    "replica": "what was accepted survives the death of Redis' process, and is on a replica",
    "everysec": "what was accepted survives the death of Redis, but for the last two seconds",
    "none": "what was accepted is lost when Redis dies",
}
CONFIGURATION_HIDDEN: Final = (
    "as far as the operator says: the server does not show its configuration"
)
_APPENDFSYNC: Final[dict[Durability, frozenset[str]]] = {
    "fsync": frozenset({"always"}),
    "everysec": frozenset({"everysec", "always"}),
}
LATE_SYNC: Final = "but for two seconds at most in which its disk is busy (appendfsync everysec)"
_FULL_SHARE: Final = 0.95
MEMORY_UNBOUNDED: Final = (
    "redis.url: the server has no memory bound (maxmemory 0), so nothing is refused before the "
    "machine has no memory left; set maxmemory"
)
# Those who promise nothing of a machine, whose writes need only to be the kernel's.
_SURVIVES_PROCESS: Final[frozenset[Durability]] = frozenset({"process", "replica"})
# Those who promise something of the machine, too.
_SURVIVES_MACHINE: Final[frozenset[Durability]] = frozenset({"fsync", "everysec"})


class ServerState(NamedTuple):
    """A server as it was seen: why it is not fit, in one line what it holds, and what is unwise."""

    faults: tuple[str, ...]
    holds: str
    warnings: tuple[str, ...] = ()


async def check(redis: Connection, settings: RedisSettings) -> str:
    """Return what a server that is fit holds, in one line.

    Raises ConfigurationError with every reason why it is not fit.
    """
    seen = await inspect(redis, settings)
    if seen.faults:
        raise ConfigurationError(list(seen.faults))
    if LATE_SYNC in seen.holds:
        logs.logger().warning(
            "durability falls short", durability=settings.durability, holds=seen.holds
        )
    for warning in seen.warnings:
        logs.logger().warning("Redis is set up unwisely", warning=warning)
    return seen.holds


async def inspect(
    redis: Connection, settings: RedisSettings, *, while_running: bool = False
) -> ServerState:
    """Return how the server stands; while running, also what it lacks since it was fit."""
    info = await _info(redis)
    configuration = None if settings.durability == "none" else await _configuration(redis)
    found = (
        _too_old(info),
        await _publish_denied(redis, settings),
        _eviction_on(info),
        _append_only_file_off(info, settings),
        *_late_sync_faults(configuration or {}, settings.durability),
        _replica_missing(info, settings),
        *((_memory_full(info), await _denied_commands(redis, settings)) if while_running else ()),
    )
    return ServerState(
        tuple(fault for fault in found if fault),
        _holds(configuration, settings.durability),
        () if int(info.get("maxmemory", 0)) else (MEMORY_UNBOUNDED,),
    )


async def check_commands(redis: Connection, settings: RedisSettings) -> None:
    """Raise ConfigurationError where the connection's user lacks commands; needs the library."""
    denied = await _denied_commands(redis, settings)
    if denied is not None:
        raise ConfigurationError([denied])


async def _denied_commands(redis: Connection, settings: RedisSettings) -> str | None:
    """Name the commands that the ACL lacks; a server that takes no writes now says nothing."""
    root = keys.system_root(settings)
    try:
        lacking = await functions.list_missing_commands(
            redis, root, functions.ListMissingCommandsAsk()
        )
    except NotNowError as error:
        if "NOPERM" not in error.message:
            return None
        return f"redis.url: its user may not call functions: {error.message}"
    for words in (("BLPOP", keys.PERMISSION_PROBE(root), 0.001), ("CLIENT", "UNBLOCK", 0)):
        try:
            await redis.call(*words)
        except NotNowError as error:
            if "NOPERM" in error.message:
                lacking.append("|".join(words[:2] if words[0] == "CLIENT" else words[:1]).lower())
    if not lacking:
        return None
    needed = " ".join(f"+{name}" for name in lacking)
    return f"redis.url: its user lacks commands; ACL SETUSER needs {needed}"


def _memory_full(info: dict[str, str]) -> str | None:
    """Say that the server's memory is nearly used up: then it takes nothing in any more."""
    memory_max, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if not memory_max or used < memory_max * _FULL_SHARE:
        return None
    full = f"{_FULL_SHARE:.0%} of {memory_max} bytes (maxmemory)"
    return f"redis.url: the server's memory is full: {full}"


def _holds(configuration: dict[str, str] | None, name: Durability) -> str:
    """Return what a name means on this server; one that it only nearly keeps is warned of."""
    holds = GUARANTEES[name]
    if name == "none":
        return holds
    if configuration is None:
        return f"{holds}; {CONFIGURATION_HIDDEN}"
    if name not in _SURVIVES_PROCESS or configuration.get("appendfsync") != "everysec":
        return holds
    return f"{holds}, {LATE_SYNC}"


async def _info(redis: Connection) -> dict[str, str]:
    text: bytes | str = await redis.call("INFO")
    lines = (text.decode() if isinstance(text, bytes) else text).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _too_old(info: dict[str, str]) -> str | None:
    version = info.get("redis_version", "0.0")
    if tuple(int(part) for part in version.split(".")[:2]) >= VERSION_MIN:
        return None
    return (
        f"redis.url: the server is version {version}; Pollux needs Redis 7.0 or Valkey 8 or later"
    )


def _eviction_on(info: dict[str, str]) -> str | None:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        return None
    return f"redis.url: the server evicts keys (maxmemory-policy {policy}); it must be noeviction"


async def _publish_denied(redis: Connection, settings: RedisSettings) -> str | None:
    """Try a channel of each kind: a function that may not publish is cut off in its midst."""
    for root in (keys.system_root(settings), keys.partition_root(settings, 0)):
        try:
            await redis.call("PUBLISH", keys.worker_channel(root, "nobody"), "")
        except UnavailableError as error:
            if "NOPERM" not in error.message:
                raise
            return (
                "redis.url: its user may not use the channels below "
                f"`{settings.prefix}:`; ACL SETUSER needs &{settings.prefix}:*"
            )
    return None


def _append_only_file_off(info: dict[str, str], settings: RedisSettings) -> str | None:
    if settings.durability == "none" or info.get("aof_enabled") == "1":
        return None
    return (
        "redis.durability: the server keeps no append-only file (appendonly no), so a restart "
        'would lose accepted messages; turn it on, or set durability to "none"'
    )


def _late_sync_faults(configuration: dict[str, str], name: Durability) -> Iterator[str]:
    """Tell what the server would sync too late; nothing where it shows nothing."""
    is_set = configuration.get("appendfsync")
    fitting = sorted(_APPENDFSYNC.get(name, ()))
    if is_set is not None and fitting and is_set not in fitting:
        yield f"redis.durability: `{name}` needs a server with appendfsync {' or '.join(fitting)}"
    if name in _SURVIVES_MACHINE and configuration.get("no-appendfsync-on-rewrite") == "yes":
        yield f"redis.durability: `{name}` needs a server with no-appendfsync-on-rewrite no"


def _replica_missing(info: dict[str, str], settings: RedisSettings) -> str | None:
    if settings.durability != "replica" or int(info.get("connected_slaves", 0)) > 0:
        return None
    return "redis.durability: `replica` needs a server with a replica connected"


async def _configuration(redis: Connection) -> dict[str, str] | None:
    """Return how the server syncs, or None where CONFIG is not allowed."""
    try:
        reply = await redis.call("CONFIG", "GET", "*appendfsync*")
    except StoreError:
        return None
    except UnavailableError as error:
        # Some servers have no CONFIG, others do not let us.
        if "NOPERM" in error.message:
            return None
        raise
    return {name.decode(): value.decode() for name, value in reply.items()}
