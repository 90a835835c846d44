"""`pollux api` and `pollux worker`: one part of the system, as production runs it.

This process becomes that part, so that signals and its exit code are the part's own.
"""

import os
import sys
from typing import NoReturn

from deploy.local.supervisor import python
from deploy.options import HOST, PORT, Count, Port


def api(*, host: str = HOST, port: Port = PORT, workers: Count = 1) -> NoReturn:
    """Run the API: accepts messages, answers polls. Never calls a model.

    Args:
        host: Address to listen on.
        port: Port to listen on.
        workers: How many processes share the port.

    """
    _become("api", "--host", host, "--port", str(port), "--workers", str(workers))


def worker(*, concurrency: Count | None = None) -> NoReturn:
    """Run one worker process, which makes the answers: as many as wanted, on any machines.

    Args:
        concurrency: Generations at once; default is the setting worker.concurrency.

    """
    _become("worker", *([] if concurrency is None else ["--concurrency", str(concurrency)]))


def _become(module: str, *arguments: str) -> NoReturn:
    sys.stdout.flush()
    command = python(module, *arguments)
    os.execv(command[0], command)
