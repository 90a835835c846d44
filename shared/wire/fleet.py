"""What each live worker reports, once a second."""

import msgspec


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A worker's pulse: how much it can run and does, which models it can serve."""

    id: str
    concurrency: int
    running: int
    models: tuple[str, ...]
    wire: int


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(WorkerReport).decode
