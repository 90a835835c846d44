"""Checks that a server is fit to be the system of record.

Owns the conditions: new enough for functions, never evicting, with permission to publish, and as
durable as the settings demand; and one line for what each name of durability guarantees. A
deployment that wants less says so by name: `everysec`, or `none`.

DESIGN. With `appendfsync everysec`, Redis' default, a server answers before it writes while the
disk is busy with the previous second's sync, for at most two seconds. If its process is killed
then, acknowledged writes are lost although no machine failed: `process` warns of that, and states
what holds. With `no` and with `always`, the kernel has each write before the reply leaves.
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
# Guarantees about the process only: a write needs to be in the kernel, not on the disk.
_SURVIVES_PROCESS: Final[frozenset[Durability]] = frozenset({"process", "replica"})
# Guarantees about the machine, too.
_SURVIVES_MACHINE: Final[frozenset[Durability]] = frozenset({"fsync", "everysec"})


class ServerState(NamedTuple):
    """A server's state: why it is unfit, what it guarantees in one line, and warnings."""

    faults: tuple[str, ...]
    holds: str
    warnings: tuple[str, ...] = ()


async def check(redis: Connection, settings: RedisSettings) -> str:
    """Return in one line what a fit server guarantees.

    Raises ConfigurationError with every reason why it is unfit.
    """
    state = await inspect(redis, settings)
    if state.faults:
        raise ConfigurationError(list(state.faults))
    if LATE_SYNC in state.holds:
        logs.logger().warning(
            "durability falls short", durability=settings.durability, holds=state.holds
        )
    for warning in state.warnings:
        logs.logger().warning("Redis is set up unwisely", warning=warning)
    return state.holds


async def inspect(
    redis: Connection, settings: RedisSettings, *, while_running: bool = False
) -> ServerState:
    """Return the server's state; while running, also check its free memory and our permissions."""
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
    """Raise ConfigurationError if the connection's user lacks commands; needs the library."""
    denied = await _denied_commands(redis, settings)
    if denied is not None:
        raise ConfigurationError([denied])


async def _denied_commands(redis: Connection, settings: RedisSettings) -> str | None:
    """Return a fault that names the commands which the ACL lacks, or None.

    A server that takes no writes now gives no fault.
    """
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
    """Return a fault if the server's memory is nearly used up, after which it accepts nothing."""
    memory_max, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if not memory_max or used < memory_max * _FULL_SHARE:
        return None
    full = f"{_FULL_SHARE:.0%} of {memory_max} bytes (maxmemory)"
    return f"redis.url: the server's memory is full: {full}"


def _holds(configuration: dict[str, str] | None, name: Durability) -> str:
    """Return what a durability guarantees on this server, with the exception it makes, if any."""
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
    """Try a channel of each kind: a function that may not publish would stop halfway."""
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
    """Yield the faults of a server that syncs too late; none where it hides its configuration."""
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
        # Some servers have no CONFIG (StoreError above), others deny it.
        if "NOPERM" in error.message:
            return None
        raise
    return {name.decode(): value.decode() for name, value in reply.items()}
