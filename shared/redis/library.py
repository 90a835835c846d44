"""Renders the Lua files into one library, loads it, and calls its functions.

The library's name holds a digest of its text, and a library is never replaced: during a deploy old
and new processes run side by side, each with its own functions. What both languages use (names of
keys, the transition table, failures, constants) is rendered into the text from Python, which has
the only copy.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Set as AbstractSet
from importlib import resources
from typing import Final, Literal

import msgspec

from shared import fairness
from shared.clock import MS_PER_DAY
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
from shared.lifecycle import STORED_AS, TRANSITIONS, Stage
from shared.redis import key_types, keys
from shared.redis.client import Argument, Connection, Reply
from shared.redis.outage import FunctionMissingError
from shared.telemetry import logs
from shared.wire import account_event, event as events
from shared.wire.message import BYTES_PER_TOKEN, TOKENS_PER_MESSAGE
from shared.wire.submission import AUTO, COMPANION_WIRE, LANE_WAKEUP_WIRE, LANES, WIRE_WAKEUP
from shared.wire.webhook import ANSWERS_KEPT, ATTEMPTS_KEPT

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

# The texts that functions share, in the order in which they are joined before all functions.
SHARED: Final = (
    "numbers",
    "storage_quota",
    "ledger",
    "records",
    "lanes",
    "queue_entry",
    "leases",
    "rounds",
    "session_queue",
    "dead_letters",
    "webhooks",
    "account_log",
    "batches",
    "finish",
    "api_keys",
    "breaker",
    "submission_rate",
    "parking",
    "suspects",
    "damage",
    "unacknowledged",
    "suspect_accounts",
    "throttle",
)

# Functions that are also allowed on a full server (`allow-oom`): those that end work, free memory
# or let running work finish, since otherwise the server would stay full, and those of an operator.
_ALLOWED_WHEN_FULL: Final = frozenset(
    """
    admit_throttled adopt_items adopt_keys append cancel check_types create_account create_key
    delete_batch delete_batch_pieces delete_own_key delete_session delete_turns delete_webhook
    delivery_load discard_dead_letters end_call end_delivery end_open_items end_probe expire grant
    list_dead_letters list_own_keys pack_chunk pause_batch reap record_refusal recount release
    release_idempotency_key renew_leases report_worker restore resume resume_batch revoke_key
    settle stop_batch suspend take_ended_chunks
    """.split()
)

# Functions that first check the types of the keys that a whole partition shares (damage.lua),
# because they move generations between queues. `accept`, `claim` and `settle`, which run for each
# answer, save that command: their first write is to such a key, so nothing else is written before.
_CHECKS_SHARED_KEYS: Final = frozenset(
    """
    adopt_items cancel delete_session end_open_items enqueue_items expire reap release restore
    resume retry_dead_letter suspend
    """.split()
)

_WORD: Final = re.compile(r"\w+")
_NO_CODE: Final = re.compile(r"--.*|'[^'\n]*'")
# A definition at the top of a text.
_DEFINITION: Final = re.compile(
    r"^local (?P<function>function )?(?P<names>[\w, ]+?)(?P<rest>\(| =|$)", re.MULTILINE
)

# The stages that functions tell followers of, where no worker does.
_ANNOUNCED_STAGES: Final[tuple[Stage, ...]] = ("queued", "retrying", "awaiting_approval")


def sources() -> dict[str, str]:
    """Return the text of every function by its name, without the shared texts."""
    folder = resources.files("shared.redis") / "functions"
    texts = {
        entry.name.removesuffix(".lua"): entry.read_text(encoding="utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(".lua")
    }
    return {name: text for name, text in sorted(texts.items()) if name not in SHARED}


def render() -> tuple[str, str]:
    """Return the library's name and its whole text.

    Lua allows 200 local names in one scope. Each text has a scope of its own, with the keys and the
    constants that it names; only what a shared text defines for others stands before all of them.
    """
    folder = resources.files("shared.redis") / "functions"
    shared = {name: (folder / f"{name}.lua").read_text(encoding="utf-8") for name in SHARED}
    texts = shared | sources()
    words = {name: _words(text) for name, text in texts.items()}
    lines = {f"{name}_key": key.lua(name) for name, key in keys.FAMILIES.items()}
    lines |= {name: f"local {name} = {_lua(value)}" for name, value in _constants().items()}
    users = Counter(word for each in words.values() for word in each)
    scopes = {name: _in_scope(text, words[name], lines) for name, text in texts.items()}
    for name, text in shared.items():
        exported = {each for each in _defined(text) if users[each] > 1}
        scopes[name] = _export(scopes[name], exported)
    rendered = (
        "local damage = {}",  # filled by damage.lua
        f"damage.CHECKS_SHARED_KEYS = {_lua(_set(_CHECKS_SHARED_KEYS))}",
        f"local ALLOWED_WHEN_FULL = {_lua(_set(_ALLOWED_WHEN_FULL))}",
        _REGISTER,
    )
    body = "\n".join((*rendered, *scopes.values()))
    name = f"pollux_{hashlib.sha256(body.encode()).hexdigest()[:12]}"
    return name, f"#!lua name={name}\nlocal LIBRARY = '{name}'\n{body}"


def _constants() -> dict[str, object]:
    """Return what Lua knows by the name that Python has for it."""
    return {
        "TRANSITIONS": {stage: _set(following) for stage, following in TRANSITIONS.items()},
        "STORED_AS": STORED_AS,
        "EXPIRED": msgspec.to_builtins(EXPIRED),
        "CRASHED": msgspec.to_builtins(CRASHED),
        "DAMAGED": msgspec.to_builtins(DAMAGED),
        "CANCELLED": msgspec.to_builtins(CANCELLED),
        "DEAD_CATEGORIES": _set(DEAD_CATEGORIES),
        "AUTO": AUTO,
        "EVENT_CODES": account_event.CODES,
        "EVENT_TYPES": account_event.TYPES,
        "RESET": events.encode(events.Reset(keep=0)),
        "STAGE_EVENTS": {
            stage: events.encode(events.StageChanged(stage)) for stage in _ANNOUNCED_STAGES
        },
        "COMPANION_WIRE": COMPANION_WIRE,
        "LANE_WAKEUP_WIRE": LANE_WAKEUP_WIRE,
        "WIRE_WAKEUP": WIRE_WAKEUP,
        "TURNS_PER_CHUNK": keys.TURNS_PER_CHUNK,
        "LANES": LANES,
        "STRIDE": fairness.STRIDE,
        "CLAIMS_AHEAD": fairness.CLAIMS_AHEAD,
        "BATCH_SHARE": fairness.BATCH_SHARE,
        "BYTES_PER_TOKEN": BYTES_PER_TOKEN,
        "TOKENS_PER_MESSAGE": TOKENS_PER_MESSAGE,
        "MS_PER_DAY": MS_PER_DAY,
        "DELIVERY_ATTEMPTS_KEPT": ATTEMPTS_KEPT,
        "DELIVERY_ANSWERS_KEPT": ANSWERS_KEPT,
    }


def _set(words: Iterable[str]) -> dict[str, bool]:
    return dict.fromkeys(sorted(words), True)


def _words(text: str) -> set[str]:
    """Return the words of a text's code, without its comments and strings."""
    return set(_WORD.findall(_NO_CODE.sub("", text)))


def _defined(text: str) -> set[str]:
    """Return the names that a text defines at its top."""
    return {name for found in _DEFINITION.finditer(text) for name in found["names"].split(", ")}


def _in_scope(text: str, words: AbstractSet[str], lines: Mapping[str, str]) -> str:
    """Return a text in a scope of its own, with the lines of the names that it uses."""
    return "\n".join(("do", *(lines[name] for name in lines if name in words), text, "end"))


def _export(scope: str, names: AbstractSet[str]) -> str:
    """Return a scope whose definitions of these names hold after it, too."""

    def assign(found: re.Match[str]) -> str:
        own = set(found["names"].split(", "))
        if not own & names:
            return found[0]
        if own - names:
            message = f"only a part of {sorted(own)} is used by other texts"
            raise ValueError(message)
        # Without a value, it only comes before its use: so does the line before the scope.
        return f"{found['function'] or ''}{found['names']}{found['rest']}" if found["rest"] else ""

    assigned = _DEFINITION.sub(assign, scope)
    return f"local {', '.join(sorted(names))}\n{assigned}" if names else scope


def _lua(value: object) -> str:
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"[{_lua(name)}] = {_lua(item)}" for name, item in value.items()) + "}"
        )
    if isinstance(value, tuple):
        return "{" + ", ".join(_lua(item) for item in value) + "}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
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
    """Call a function with one root and one msgpack map; load the library if the server lost it.

    `blob` reaches Lua as `ask.blob`, beside the map, because Lua's msgpack reads no binary strings.
    `effect` decides what happens when the reply is lost: a call that only reads (`none`) or whose
    repetition changes nothing (`repeatable`) is sent again, one that counts `once` is not.
    """
    call = command(name, root, ask, blob=blob, effect=effect)
    repeat = effect != "once"
    try:
        return await redis.call(*call, repeat=repeat)
    except FunctionMissingError:
        await reload(redis)
        return await redis.call(*call, repeat=repeat)
    except WrongTypeError as error:
        names = (*key_types.named_in(root, error.message), *key_types.of_call(root, ask, blob))
        expected = key_types.ask(dict.fromkeys(names))
        found = wrong_keys(await redis.call(*command("check_types", root, expected)))
        if effect == "once" or not found or not all(key.is_removed for key in found):
            raise WrongTypeError(error.message, found) from None
        return await redis.call(*call)


def wrong_keys(reply: Reply) -> tuple[WrongKey, ...]:
    """Return which keys hold another type, and log those that were removed."""
    found = tuple(
        WrongKey(name.decode(), expected.decode(), is_.decode(), bool(is_removed))
        for name, expected, is_, is_removed in reply
    )
    for key in found:
        if key.is_removed:
            logs.logger().warning("a key of another type was removed", fault=key.fault)
    return found


def send_call(redis: Connection, name: str, root: str, ask: msgspec.Struct) -> None:
    """Send a call without waiting for its reply; it is lost if the connection is."""
    redis.send(*command(name, root, ask))


def command(
    name: str, root: str, ask: msgspec.Struct, *, blob: bytes = b"", effect: Effect = "repeatable"
) -> tuple[Argument, ...]:
    """Return the command that calls a function; for its arguments see `invoke`."""
    verb = "FCALL_RO" if effect == "none" else "FCALL"
    return (verb, f"{NAME}_{name}", 1, root, _encode(ask), blob)


_encode = msgspec.msgpack.Encoder().encode
