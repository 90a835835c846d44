"""Renders the Lua files into one library, loads it, and calls its functions.

Owns the text and its loading. The library's name holds a digest of its text and a library is never
replaced, so old and new processes run side by side during a deploy, each with its own functions.
Key names, the transition table and the failures that Redis reports are rendered from Python, which
has the only copy.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Set as AbstractSet
from importlib import resources
from typing import Final, Literal

import msgspec

from shared.errors import (
    CANCELLED,
    CRASHED,
    DAMAGED,
    DEAD_CATEGORIES,
    EXPIRED,
    StoreError,
    WrongKey,
    WrongTypeError,
)
from shared.lifecycle import TRANSITIONS
from shared.redis import key_types, keys
from shared.redis.client import Argument, Connection, Reply
from shared.redis.outage import FunctionMissingError
from shared.telemetry import logs
from shared.wire import event as events
from shared.wire.submission import AUTO, COMPANION_WIRE, LANE_WAKEUP_WIRE, WIRE_WAKEUP

Effect = Literal["none", "repeatable", "once"]

_REGISTER: Final = """
local function register(name, body, reads_only)
  redis.register_function{
    function_name = LIBRARY .. '_' .. name,
    flags = reads_only and {'no-writes'} or ALLOWED_WHEN_FULL[name] and {'allow-oom'} or {},
    callback = function(roots, arguments)
      local ask = cmsgpack.unpack(arguments[1])
      ask.blob = arguments[2]
      if damage.CHECKS_SHARED_KEYS[name] then damage.check_shared_keys(roots[1]) end
      return body(roots[1], ask)
    end,
  }
end
"""

# Files that the functions share, in the order in which they stand before them.
SHARED: Final = (
    "numbers",
    "storage_quota",
    "ledger",
    "records",
    "lanes",
    "leases",
    "session_queue",
    "dead_letters",
    "finish",
    "api_keys",
    "breaker",
    "submission_rate",
    "parking",
    "suspects",
    "damage",
    "unacknowledged",
    "suspect_accounts",
)

# Functions that run even when the server's memory is full: they end work or free memory (otherwise
# the server would stay full), let running work come to its end, or are an operator's.
_ALLOWED_WHEN_FULL: Final = frozenset(
    """
    create_account create_key list_dead_letters grant revoke_key
    adopt_keys append renew_leases cancel check_types delete_own_key delete_session end_call
    discard_dead_letters end_probe
    expire delete_turns release_idempotency_key list_own_keys reap recount release report_worker
    restore settle
    record_refusal admit_throttled
    """.split()
)


# Functions that check the types of the partition's queues before they move work in them. `append`,
# called for each piece of an answer, does not: it writes to a shared key before anything else.
_CHECKS_SHARED_KEYS: Final = frozenset(
    "cancel delete_session expire reap release restore retry_dead_letter".split()
)


def sources() -> dict[str, str]:
    """Return the text of every function's file by its name, without the shared files."""
    folder = resources.files("shared.redis") / "functions"
    texts = {
        entry.name.removesuffix(".lua"): entry.read_text(encoding="utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(".lua")
    }
    return {name: text for name, text in sorted(texts.items()) if name not in SHARED}


def render() -> tuple[str, str]:
    """Return the library's name and its whole text."""
    folder = resources.files("shared.redis") / "functions"
    shared = [(folder / f"{name}.lua").read_text(encoding="utf-8") for name in SHARED]
    # Lua allows 200 local names: only key functions that the shared files use stand at the top
    # level.
    common = {name for name in _NAMED_IN_LUA if any(_uses(text, name) for text in shared)}
    steps = {stage: dict.fromkeys(sorted(next_), True) for stage, next_ in TRANSITIONS.items()}
    rendered = "\n".join(
        (
            *_key_names(lambda name: name in common),
            f"local TRANSITIONS = {_lua(steps)}",
            f"local EXPIRED = {_lua(msgspec.to_builtins(EXPIRED))}",
            f"local CRASHED = {_lua(msgspec.to_builtins(CRASHED))}",
            f"local DAMAGED = {_lua(msgspec.to_builtins(DAMAGED))}",
            f"local CANCELLED = {_lua(msgspec.to_builtins(CANCELLED))}",
            f"local DEAD_CATEGORIES = {_lua(dict.fromkeys(sorted(DEAD_CATEGORIES), True))}",
            f"local AUTO = {_lua(AUTO)}",
            f"local RESET = {_lua(events.encode(events.Reset(keep=0)))}",
            f"local RETRYING = {_lua(events.encode(events.StageChanged('retrying')))}",
            f"local ALLOWED_WHEN_FULL = {_lua(dict.fromkeys(sorted(_ALLOWED_WHEN_FULL), True))}",
            # The table of damage.lua.
            "local damage = {}",
            f"damage.CHECKS_SHARED_KEYS = {_lua(dict.fromkeys(sorted(_CHECKS_SHARED_KEYS), True))}",
            f"local COMPANION_WIRE = {COMPANION_WIRE}",
            f"local LANE_WAKEUP_WIRE = {LANE_WAKEUP_WIRE}",
            f"local WIRE_WAKEUP = {_lua(WIRE_WAKEUP)}",
            f"local TURNS_PER_CHUNK = {keys.TURNS_PER_CHUNK}",
            _REGISTER,
        )
    )
    own = (_with_key_names(text, common) for text in sources().values())
    body = "\n".join((rendered, *shared, *own))
    name = f"pollux_{hashlib.sha256(body.encode()).hexdigest()[:12]}"
    return name, f"#!lua name={name}\nlocal LIBRARY = '{name}'\n{body}"


def _uses(text: str, name: str) -> bool:
    return re.search(rf"\b{name}_key\(", text) is not None


def _key_names(is_wanted: Callable[[str], bool]) -> Iterator[str]:
    for name, key in keys.FAMILIES.items():
        if name in _NAMED_IN_LUA and is_wanted(name):
            yield key.lua(name)


def _with_key_names(text: str, common: AbstractSet[str]) -> str:
    """Return a function's text in a scope of its own, with the key functions that only it uses."""
    names = _key_names(lambda name: name not in common and _uses(text, name))
    return "\n".join(("do", *names, text, "end"))


_NAMED_IN_LUA: Final = frozenset(
    """
    generation submission text events idempotency session waiting turns account_totals ledger usage
    sessions unfinished submissions ready lane clocks wakeup wakeup_for parked parked_turns
    parked_queues leases claiming_workers deadlines deferred suspects dead_letters damaged
    dead_letter files_to_delete turns_to_delete recount durations api_key key_ids account_keys
    key_expiries listed_keys_count
    deleted_key account worker_reports report_times served_models breaker
    failures successes cooling slots rates permission_probe failed_messages throttle throttles
    suspect_accounts answer_lengths
    """.split()
)


def _lua(value: object) -> str:
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"[{_lua(name)}] = {_lua(item)}" for name, item in value.items()) + "}"
        )
    if isinstance(value, bool):
        return "true" if value else "false"
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"


NAME, TEXT = render()


async def load(redis: Connection) -> bool:
    """Load this process' library if the server lacks it; safe when many processes do it at once.

    Return whether this call loaded it.
    """
    if await redis.call("FUNCTION", "LIST", "LIBRARYNAME", NAME):
        return False
    try:
        await redis.call("FUNCTION", "LOAD", TEXT)
    except StoreError as error:
        if "already exists" not in error.message:
            raise
        return False
    return True


async def reload(redis: Connection) -> None:
    """Load the library into a server that has lost it, which Pollux itself never causes."""
    if await load(redis):
        logs.logger().warning("Redis had lost its functions", library=NAME)


async def invoke(
    redis: Connection,
    name: str,
    root: str,
    ask: msgspec.Struct,
    *,
    blob: bytes = b"",
    effect: Effect = "repeatable",
) -> Reply:
    """Call a function with one root and a msgpack map; load the library if the server lost it.

    `blob` reaches Lua as `ask.blob`: Lua's msgpack reads no binary strings, so opaque bytes travel
    beside the map. `effect` says what a repeated call changes where the first one's reply was lost:
    nothing (`repeatable`), the same again (`once`, so it is not repeated), or nothing at all
    (`none`, a read).
    """
    words = command(name, root, ask, blob=blob, effect=effect)
    repeat = effect != "once"
    try:
        return await redis.call(*words, repeat=repeat)
    except FunctionMissingError:
        await reload(redis)
        return await redis.call(*words, repeat=repeat)
    except WrongTypeError as error:
        names = (*key_types.named_in(root, error.message), *key_types.of_call(root, ask, blob))
        to_check = key_types.ask(dict.fromkeys(names))
        found = wrong_keys(await redis.call(*command("check_types", root, to_check)))
        if effect == "once" or not found or not all(key.is_removed for key in found):
            raise WrongTypeError(error.message, found) from None
        return await redis.call(*words)


def wrong_keys(reply: Reply) -> tuple[WrongKey, ...]:
    """Return the keys of a `check_types` reply; log those that were deleted."""
    found = tuple(
        WrongKey(name.decode(), expected.decode(), is_.decode(), bool(is_removed))
        for name, expected, is_, is_removed in reply
    )
    for key in found:
        if key.is_removed:
            logs.logger().warning("a key of the wrong type was deleted", fault=key.fault)
    return found


def send_call(redis: Connection, name: str, root: str, ask: msgspec.Struct) -> None:
    """Call a function without waiting; the call may be lost with the connection."""
    redis.send(*command(name, root, ask))


def command(
    name: str, root: str, ask: msgspec.Struct, *, blob: bytes = b"", effect: Effect = "repeatable"
) -> tuple[Argument, ...]:
    """Return the words of a function's call."""
    verb = "FCALL_RO" if effect == "none" else "FCALL"
    return (verb, f"{NAME}_{name}", 1, root, _encode(ask), blob)


_encode = msgspec.msgpack.Encoder().encode
