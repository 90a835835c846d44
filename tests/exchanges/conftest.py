"""The fixture of the exchanges: a deployment in which nothing runs yet."""

from tests.support.system import system

__all__ = ["system"]
