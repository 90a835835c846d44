"""Logs what a reap did."""

from shared.errors import CRASHED
from shared.redis.functions import Reaped
from shared.telemetry import logs


def log_reaped(reaped: Reaped) -> None:
    """Log each generation that the reap requeued, ended or buried, and each damaged record."""
    for account, generation, what in reaped.done:
        about = {"account": account, "generation": generation}
        logs.logger().warning("reaped", what=what, **about)
        if what == "buried":
            logs.logger().warning("dead letter", code=CRASHED.code, **about)
    for name, fault, hold in reaped.damaged:
        account, _, generation = name.partition(":")
        logs.logger().error(
            "a damaged record was set aside",
            account=account,
            generation=generation,
            fault=fault,
            hold=hold,
        )
