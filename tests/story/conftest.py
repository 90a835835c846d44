"""The fixtures of the tutorial: a deployment, a customer, a worker, somebody else."""

from tests.support.system import api, other, own_system, system, worker

__all__ = ["api", "other", "own_system", "system", "worker"]
