"""`pollux api` and `pollux worker`: one process of the system, as production runs it.

The command replaces itself by that process (execv), which so receives the signals and sets the exit
code.
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
    """Run the API, which accepts messages and answers polls. It never calls a model.

    Args:
        host: Address to listen on.
        port: Port to listen on.
        workers: Number of API processes that share the port.
        admin_host: Address of the admin port.
        admin_port: Port that serves /admin/v1 to operators; without it nothing serves /admin/v1.

    """
    words = ["--host", host, "--port", str(port), "--workers", str(workers)]
    if admin_port is not None:
        words += ["--admin-host", admin_host, "--admin-port", str(admin_port)]
    _become("api", *words)


def worker(*, concurrency: Count | None = None) -> NoReturn:
    """Run one worker process, which generates the answers. Run as many as needed, on any machines.

    Args:
        concurrency: Generations at a time; default is the setting worker.concurrency.

    """
    _become("worker", *([] if concurrency is None else ["--concurrency", str(concurrency)]))


def _become(module: str, *arguments: str) -> NoReturn:
    sys.stdout.flush()
    command = python(module, *arguments)
    os.execv(command[0], command)
