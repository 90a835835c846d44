"""Which resource a parked turn waits for: a provider, or `provider|model` where a model cools."""

from collections.abc import Iterable

from shared.settings import ModelSettings
from worker.run import Dependencies


def resource_of(model: ModelSettings, *, is_circuit: bool = False) -> str:
    """Return what a turn for a model waits for: its provider, or the model there."""
    return f"{model.provider}|{model.identifier}" if is_circuit else model.provider


def may_park(dependencies: Dependencies, model: ModelSettings) -> bool:
    """Tell whether a turn for a model whose key this worker lacks may wait in a line.

    Not where only workers that know no lines serve it: they would never find it there.
    """
    if model.identifier not in dependencies.configured:
        return True
    return (
        dependencies.models_without_parking is not None
        and model.identifier not in dependencies.models_without_parking
    )


def join_resources(resources: Iterable[str]) -> str | None:
    """Return resources as they are told to Redis, each once, or None for none."""
    return " ".join(dict.fromkeys(resources)) or None
