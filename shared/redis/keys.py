"""Every key of Pollux: its name, what it holds, and when it ends; and every channel.

DESIGN. A name is a root and a pattern. The root is the prefix and a hash tag: `pollux:{p00}:` for
all that belongs to the accounts of a partition, `pollux:{sys}:` for what belongs to none. A
function gets one root and touches no key of another, so the same code runs on one server and on a
Cluster. The patterns are rendered into the Lua library, so that both languages name a key alike.

An account's name is part of every key of its own: a request for another account's id asks for a key
that does not exist.

The words of some patterns are older than the names in the code (`bell` is WAKEUP, `books` is
ACCOUNT_TOTALS): they are stored, and old and new processes must find the same keys.
"""

import re
from functools import cache
from typing import Final, Literal

from shared.settings import RedisSettings

End = Literal["permanent", "deleted", "ttl"]

_TYPES: Final = frozenset({"hash", "zset", "list", "set", "stream"})
_SYSTEM: Final = "{sys}:"
_PART = re.compile(r"<([a-z_]+)>")


class Key:
    """A family of keys below a partition's root. `holds` describes the value, `end` how it ends.

    permanent: as old as the deployment or the account, or until its owner is deleted by request.
    deleted:   removed by the function that ends its purpose; there always is one.
    ttl:       expires; nothing that is still queued or running does.
    """

    is_system = False

    def __init__(self, pattern: str, *, holds: str, end: End) -> None:
        self.pattern = pattern
        self.holds = holds
        self.end = end
        self.parts: tuple[str, ...] = tuple(_PART.findall(pattern))
        self._template = _PART.sub("%s", pattern)

    @property
    def type(self) -> str:
        """Redis' name for the type of the value."""
        word = self.holds.partition(":")[0]
        return word if word in _TYPES else "string"

    def __call__(self, root: str, *parts: str | int) -> str:
        """Return the full name below a root."""
        return root + self._template % parts

    def lua(self, name: str) -> str:
        """Return the Lua function that makes the same names."""
        pieces = [
            piece if index % 2 else f"'{piece}'"
            for index, piece in enumerate(_PART.split(self.pattern))
            if piece
        ]
        arguments = ", ".join(("root", *self.parts))
        return f"local function {name}_key({arguments}) return root .. {' .. '.join(pieces)} end"


class SystemKey(Key):
    """A family of keys below the system's root."""

    is_system = True


# One generation, from accept to the end of its retention.
GENERATION: Final = Key(
    "generation:<account>:<id>", holds="hash: stage, counters, times", end="ttl"
)
SUBMISSION: Final = Key(
    "submission:<account>:<id>", holds="what the caller asked for, msgpack", end="deleted"
)
TEXT: Final = Key("text:<account>:<id>", holds="the answer so far", end="deleted")
# An older process that ends a generation leaves its rounds behind, which then expire.
ROUNDS: Final = Key(
    "rounds:<account>:<id>", holds="list: its finished rounds, JSON each", end="deleted"
)
EVENTS: Final = Key("events:<account>:<id>", holds="stream: its events by EPOCH-SEQ", end="ttl")
IDEMPOTENCY: Final = Key(
    "idempotency:<account>:<hash>",
    holds="hash: fingerprint, and the ids of the first reply",
    end="ttl",
)

# One session and its messages.
SESSION: Final = Key(
    "session:<account>:<id>",
    holds="hash: name, companion, times, turns, head, bytes",
    end="permanent",
)
WAITING: Final = Key(
    "waiting:<account>:<id>", holds="zset: queued turns behind the head", end="deleted"
)
TURNS: Final = Key(
    "turns:<account>:<id>:<chunk>",
    holds="hash: messages of a chunk of turns; without a session they expire with the generation",
    end="permanent",
)

# One account, inside its partition.
ACCOUNT_TOTALS: Final = Key(
    "books:<account>", holds="hash: credits, running counts, stored bytes", end="permanent"
)
LEDGER: Final = Key(
    "ledger:<account>", holds="stream: every grant and charge, append-only", end="permanent"
)
ACCOUNT_LOG: Final = Key("log:<account>", holds="stream: what has ended, and events", end="ttl")
WEBHOOK: Final = Key(
    "webhook:<account>",
    holds="hash: where to report events, the secret, how far the log is read",
    end="permanent",
)
DELIVERY: Final = Key(
    "delivery:<account>:<id>", holds="hash: an event for a receiver, and its attempts", end="ttl"
)
DELIVERIES: Final = Key(
    "deliveries:<account>", holds="zset: deliveries by when they began", end="ttl"
)
DELIVERIES_DUE: Final = Key(
    "deliveries-due:<account>:<target>",
    holds="zset: deliveries to a host by the time of the next attempt",
    end="deleted",
)
DELIVERIES_SENT: Final = Key(
    "deliveries-sent:<account>:<target>",
    holds="zset: deliveries that are being sent to a host, by lease end",
    end="deleted",
)
FAILING_TARGET: Final = Key(
    "failing-target:<account>:<target>", holds="nothing: the last call of a host failed", end="ttl"
)
USAGE: Final = Key(
    "usage:<account>:<day>", holds="hash: a day's use by model and API key", end="permanent"
)
SESSIONS: Final = Key(
    "sessions:<account>", holds="zset: sessions by last activity", end="permanent"
)
UNFINISHED: Final = Key(
    "unfinished:<account>:<lane>", holds="zset: its generations by accept number", end="deleted"
)
SUBMISSIONS: Final = Key("submissions:<account>", holds="the rate limit's arrival time", end="ttl")

# One batch: prompts that wait packed, and answers that are packed again.
BATCH: Final = Key("batch:<account>:<id>", holds="hash: state, counts, credits", end="deleted")
BATCH_ITEMS: Final = Key(
    "batch-items:<account>:<id>:<chunk>",
    holds="a chunk of items that wait, compressed",
    end="deleted",
)
BATCH_CHUNK: Final = Key(
    "batch-chunk:<account>:<id>:<chunk>",
    holds="hash: how many items of a chunk have not ended, and the number of finishing of the rest",
    end="deleted",
)
BATCH_RESULTS: Final = Key(
    "batch-results:<account>:<id>:<chunk>",
    holds="a chunk of items that have ended, with their answers, compressed",
    end="deleted",
)
BATCH_STARTS: Final = Key(
    "batch-starts:<account>:<id>",
    holds="the index of the first item of each chunk, 4 bytes each",
    end="deleted",
)
BATCH_ORDER: Final = Key(
    "batch-order:<account>:<id>",
    holds="the index of each item that ended, in that order, 4 bytes each",
    end="deleted",
)
BATCH_WINDOW: Final = Key(
    "batch-window:<account>:<id>",
    holds="set: items in the queue or running, by what their ids add to the batch's",
    end="deleted",
)
BATCHES: Final = Key("batches:<account>", holds="zset: batches by creation", end="permanent")
OPEN_BATCHES: Final = Key(
    "open-batches:<account>",
    holds="zset: batches that have not ended, by when they last fed the queue",
    end="deleted",
)

# The queue of a partition.
READY: Final = Key(
    "ready:<account>:<lane>", holds="zset: heads of free sessions by number", end="deleted"
)
LANE: Final = Key(
    "lane:<lane>", holds="zset: accounts with ready turns by virtual time", end="deleted"
)
CLOCKS: Final = Key(
    "clocks", holds="hash: each lane's virtual time, the last accept number", end="permanent"
)
LEASES: Final = Key("leases", holds="zset: running generations by lease end", end="deleted")
CLAIMING_WORKERS: Final = Key(
    "holders", holds="zset: workers that claimed, by when they stopped listening", end="permanent"
)
WAKEUP: Final = Key("bell:<lane>", holds="list: wakeups for what became ready", end="deleted")
WAKEUP_FOR: Final = Key(
    "bell-for:<lane>:<resource>",
    holds="list: wakeups for workers with a resource, or that read a newer wire",
    end="deleted",
)
PARKED: Final = Key(
    "parked:<lane>:<resource>",
    holds="zset: accounts whose turns wait for a resource, by virtual time",
    end="deleted",
)
PARKED_TURNS: Final = Key(
    "parked-turns:<account>:<lane>:<resource>",
    holds="zset: an account's turns that wait for a resource, by number",
    end="deleted",
)
PARKED_QUEUES: Final = Key(
    "parked-lines", holds="set: lane and resource that turns wait for", end="deleted"
)
DEADLINES: Final = Key("deadlines", holds="zset: unfinished generations by deadline", end="deleted")
DEFERRED: Final = Key(
    "deferred", holds="zset: deferred generations by the time of the next try", end="deleted"
)
SUSPECTS: Final = Key(
    "suspects",
    holds="zset: waiting generations that may have killed a worker, by number",
    end="deleted",
)
DAMAGED: Final = Key("damaged", holds="zset: generations with damaged records, by time", end="ttl")
FILES_TO_DELETE: Final = Key(
    "forgotten",
    holds="zset: deleted sessions whose files are to be deleted, by time",
    end="deleted",
)
EXPIRING_FILES: Final = Key(
    "expiring-files",
    holds="zset: generations without a session that have files, by when to look for their record",
    end="deleted",
)
TURNS_TO_DELETE: Final = Key(
    "forgetting", holds="hash: deleted session to its last chunk that is left", end="deleted"
)
RECOUNT: Final = Key(
    "recount",
    holds="zset: accounts whose stored bytes are to be recounted, by time",
    end="deleted",
)
UNREAD_LOGS: Final = Key(
    "unread-logs",
    holds="zset: accounts with events for a receiver, by when to read their logs",
    end="deleted",
)
DUE_TARGETS: Final = Key(
    "due-targets",
    holds="zset: accounts' hosts by when something is to be sent or a lease ends",
    end="deleted",
)
UNDELIVERED: Final = Key(
    "undelivered", holds="zset: deliveries under way by their event's time", end="deleted"
)
DISABLED_WEBHOOKS: Final = Key(
    "disabled-webhooks", holds="zset: accounts whose receiver wants no more, by time", end="deleted"
)
BATCH_WORK: Final = Key("batch-work", holds="zset: batches by when to look at them", end="deleted")
BATCH_CHUNKS_TO_PACK: Final = Key(
    "batch-chunks-to-pack", holds="zset: chunks whose items have all ended, by time", end="deleted"
)
DEAD_LETTERS: Final = Key("dead", holds="zset: dead letters by time of death", end="permanent")
DEAD_LETTER: Final = Key(
    "dead:<account>:<id>",
    holds="hash: a failed generation, and all that a retry needs",
    end="ttl",
)
QUARANTINED: Final = Key(
    "set-aside:<at>:<name>",
    holds="what replaced a key of ours, until an operator deletes it",
    end="permanent",
)
DURATIONS: Final = Key("pace:<model>", holds="list: durations of its last answers, ms", end="ttl")

# The whole deployment.
API_KEY: Final = SystemKey("key:<hash>", holds="an API key's record, msgpack", end="permanent")
ACCOUNT: Final = SystemKey("account:<id>", holds="an account's record, msgpack", end="permanent")
KEY_IDS: Final = SystemKey("key-ids", holds="hash: key id to key hash", end="permanent")
ACCOUNT_KEYS: Final = SystemKey(
    "keys:<account>", holds="zset: its valid API keys by creation", end="permanent"
)
KEY_EXPIRIES: Final = SystemKey(
    "key-ends:<account>", holds="zset: its API keys that expire, by expiry", end="deleted"
)
LISTED_KEYS_COUNT: Final = SystemKey(
    "keys-listed", holds="how many key ids are in their accounts' lists", end="permanent"
)
DELETED_KEY: Final = SystemKey(
    "deleted-key:<account>:<id>",
    holds="the request that deleted an API key, and its Idempotency-Key",
    end="ttl",
)
WORKER_REPORTS: Final = SystemKey(
    "reports", holds="hash: what each live worker reports", end="permanent"
)
REPORT_TIMES: Final = SystemKey(
    "pulses", holds="zset: workers by their last report", end="permanent"
)
SERVED_MODELS: Final = SystemKey(
    "served", holds="zset: models by when a worker last served them", end="permanent"
)
BREAKER: Final = SystemKey(
    "breaker:<circuit>", holds="hash: when the circuit is due for a probe, and its probe", end="ttl"
)
FAILURES: Final = SystemKey(
    "failures:<circuit>", holds="zset: recent failed calls by time", end="ttl"
)
SUCCESSES: Final = SystemKey(
    "successes:<circuit>:<slot>", holds="how many calls of a time slot succeeded", end="ttl"
)
COOLING: Final = SystemKey(
    "cooling", holds="zset: open circuits by when they may be probed", end="deleted"
)
SLOTS: Final = SystemKey(
    "slots:<provider>:<lane>", holds="zset: calls under way by lease end", end="ttl"
)
RATES: Final = SystemKey(
    "rates:<provider>",
    holds="hash: arrival times of the rate limits; when a batch was turned away",
    end="ttl",
)
FAILED_MESSAGES: Final = SystemKey(
    "faults:<circuit>", holds="zset: recent failed messages by time", end="ttl"
)
SUSPECT_ACCOUNTS: Final = SystemKey(
    "accused:<circuit>",
    holds="zset: accounts that lately opened it, by until when they count less",
    end="ttl",
)
THROTTLE: Final = SystemKey(
    "throttle:<circuit>",
    holds="hash: the learned rate of calls that the circuit takes",
    end="ttl",
)
THROTTLES: Final = SystemKey(
    "throttles",
    holds="zset: throttled circuits by when that expires",
    end="deleted",
)
ANSWER_LENGTHS: Final = SystemKey(
    "lengths", holds="hash: bytes of an average answer by model", end="permanent"
)
LIBRARIES: Final = SystemKey(
    "libraries", holds="zset: function libraries by last use", end="permanent"
)
REPLICATION_MARK: Final = SystemKey(
    "mark", holds="nothing: a write that a replica confirms", end="permanent"
)
MEDIA_SECRET: Final = SystemKey(
    "media-secret", holds="the secret that signs media URLs", end="permanent"
)
PARTITIONS: Final = SystemKey(
    "partitions", holds="zset: the number of partitions, as a score", end="permanent"
)
PERMISSION_PROBE: Final = SystemKey(
    "tried", holds="nothing: permissions are tried on it", end="ttl"
)
CHORES_HEALTH: Final = SystemKey(
    "chores:<rota>:health-check", holds="arq's note that a worker serves its queue", end="ttl"
)
CHORES: Final = SystemKey(
    "chores:<rota>",
    holds="zset: arq's queue of workers that know the same chores",
    end="permanent",
)
CHORE_SLOT: Final = SystemKey(
    "chore:<name>:<slot>", holds="the worker that runs a chore in a time slot", end="ttl"
)

FAMILIES: Final[dict[str, Key]] = {
    name.lower(): value for name, value in list(globals().items()) if isinstance(value, Key)
}
# Keys without work or money, which are rebuilt when they are needed.
REBUILDABLE: Final = frozenset(
    {
        WAKEUP,
        WAKEUP_FOR,
        PARKED,
        PARKED_TURNS,
        PARKED_QUEUES,
        CLAIMING_WORKERS,
        DURATIONS,
        SUBMISSIONS,
        WORKER_REPORTS,
        REPORT_TIMES,
        SERVED_MODELS,
        BREAKER,
        FAILURES,
        SUCCESSES,
        COOLING,
        SLOTS,
        RATES,
        FAILED_MESSAGES,
        SUSPECT_ACCOUNTS,
        THROTTLE,
        THROTTLES,
        ANSWER_LENGTHS,
        LIBRARIES,
    }
)
TURNS_PER_CHUNK: Final = 16


def partition_root(settings: RedisSettings, partition: int) -> str:
    """Return the root of a partition's keys; its hash tag also selects a Cluster's server."""
    return f"{settings.prefix}:{{p{partition:02d}}}:"


def system_root(settings: RedisSettings) -> str:
    """Return the root of the keys that belong to no account."""
    return f"{settings.prefix}:{_SYSTEM}"


def is_system(root: str) -> bool:
    """Tell whether a root is the system's."""
    return root.endswith(_SYSTEM)


def events_channel(root: str, account: str, generation: str) -> str:
    """Return the pub/sub channel of a generation's events, which has the name of its stream."""
    return EVENTS(root, account, generation)


def worker_channel(root: str, worker: str) -> str:
    """Return the channel that tells a worker which attempts to stop."""
    return f"{root}worker:{worker}"


def worker_channels(settings: RedisSettings) -> str:
    """Return the prefix of all workers' channels; a function appends a worker's id."""
    return worker_channel(system_root(settings), "")


def revocations_channel(root: str) -> str:
    """Return the channel on which the ids of revoked API keys are published."""
    return f"{root}revocations"


def family_of(root: str, name: str) -> Key | None:
    """Return the family of a key's full name, or None."""
    tail = name.removeprefix(root)
    return next((key for key, pattern in _patterns() if pattern.fullmatch(tail)), None)


@cache
def _patterns() -> tuple[tuple[Key, re.Pattern[str]], ...]:
    return tuple((key, re.compile(_PART.sub(".+", key.pattern))) for key in FAMILIES.values())
