"""What each live worker reports, once a second."""

import msgspec


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A worker's report: its slots, how many are taken, and which models it can serve.

    `made_ms` is its own clock, which tells one report from the one before. `cooling` are the
    circuits that the worker does not call for now. `knows_lines`: it claims parked turns from their
    queues. `is_deaf`: its connection for pub/sub is down, so that it claims nothing.
    """

    id: str
    concurrency: int
    running: int
    models: tuple[str, ...]
    wire: int
    made_ms: int = 0
    cooling: tuple[str, ...] = ()
    knows_lines: bool = False
    is_deaf: bool = False


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(WorkerReport).decode
