"""Ports and URLs on this machine: finds a free port, and builds the URL of a listener."""

import errno
import socket

from shared.errors import ConfigurationError


def free_port(host: str, port: int | None) -> int:
    """Return a port that is free to listen on: `port`, or any free one if `port` is None.

    Raises:
        ConfigurationError: the port is taken, or the host is no address of this machine.

    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port or 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
            return int(trial.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = (
                f"port {port} of {host} is taken: stop the program that listens there, "
                "or choose another port with --port"
            )
        else:
            reason = f"cannot listen on port {port or 'any'} of {host}: {error.strerror}"
        raise ConfigurationError([reason]) from None


def url(host: str, port: int) -> str:
    """Return the URL at which clients on this machine reach a server that listens there."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(
        host, f"[{host}]" if ":" in host else host
    )
    return f"http://{reachable}:{port}"
