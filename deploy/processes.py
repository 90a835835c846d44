"""`pollux api` and `pollux worker`: one part of the system, as production runs it.

This process becomes that part, so that signals and its exit code are the part's own.
"""

import os
import sys
from typing import NoReturn

from deploy.local.supervisor import python
from deploy.options import HOST, PORT, Count, Port


def api(
    *,
    host: str = HOST,
    port: Port = PORT,
    workers: Count = 1,
    admin_host: str = HOST,
    admin_port: Port | None = None,
) -> NoReturn:
    """Run the API: accepts messages, answers polls. Never calls a model.

    Args:
        host: Address to listen on.
        port: Port to listen on.
        workers: How many processes share the port.
        admin_host: Address for operators to come in by.
        admin_port: Port for operators, where /admin/v1 is served; without it, it is served nowhere.

    """
    words = ["--host", host, "--port", str(port), "--workers", str(workers)]
    if admin_port is not None:
        words += ["--admin-host", admin_host, "--admin-port", str(admin_port)]
    _become("api", *words)


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
