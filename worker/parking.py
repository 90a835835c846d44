"""The resource that a parked turn waits for: `provider`, or `provider|model` for an open circuit.

Owns the names of resources, and which turns may be parked at all.
"""

from collections.abc import Iterable

from shared.settings import ModelSettings
from worker.run import Dependencies


def resource_of(model: ModelSettings, *, is_circuit: bool = False) -> str:
    """Return the resource of a model: its provider, or (`is_circuit`) the model at its provider."""
    return f"{model.provider}|{model.identifier}" if is_circuit else model.provider


def may_park(dependencies: Dependencies, model: ModelSettings) -> bool:
    """Tell whether a turn for a model whose key this worker lacks may be parked.

    Not if only workers of a version without parking serve it: they would never find the turn.
    """
    if model.identifier not in dependencies.configured:
        return True
    return (
        dependencies.models_without_parking is not None
        and model.identifier not in dependencies.models_without_parking
    )


def join_resources(resources: Iterable[str]) -> str | None:
    """Return resources in the form that Redis stores, each once, or None for none."""
    return " ".join(dict.fromkeys(resources)) or None
