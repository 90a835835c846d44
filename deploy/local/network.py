"""Addresses on this machine: is a port free, which one is, how is it written in a URL."""

import errno
import socket

from shared.errors import ConfigurationError


def free_port(host: str, port: int | None) -> int:
    """Return a port that can be listened on: the one asked for, or any.

    Raises:
        ConfigurationError: the port is taken, or the host is not this machine's.

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
                f"port {port} of {host} is taken: end what listens there, "
                "or choose another with --port"
            )
        else:
            reason = f"port {port or 'any'} of {host} cannot be listened on: {error.strerror}"
        raise ConfigurationError([reason]) from None


def url(host: str, port: int) -> str:
    """Return how a client of this machine reaches a server that listens there."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(
        host, f"[{host}]" if ":" in host else host
    )
    return f"http://{reachable}:{port}"
