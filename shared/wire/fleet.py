"""What each live worker reports, once a second."""

import msgspec


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A worker's pulse: how much it can run and does, which models it can serve.

    `made_ms` is its own clock's, which tells it from the one before; `cooling` are the circuits
    that it spares, as far as it has heard. Whoever `knows_lines` takes parked turns from them.
    It `is_deaf` while its listener is away, and then claims nothing.
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
