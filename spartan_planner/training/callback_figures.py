"""What the callbacks of other trainers have in common: the planned network, and figures to log."""

from numbers import Real
from typing import Any

from torch import nn

from spartan_planner.errors import TrainingError

_LOGGED = ("step", "price", "beta", "density", "predicted")


def planned_network(model: nn.Module, submodule: str) -> nn.Module:
    """Return the part of a model that a plan is for.

    Args:
        model: what the trainer trains.
        submodule: name of the part, such as ``network``; empty for the whole.

    Raises:
        TrainingError: there is no such part.
    """
    try:
        return model.get_submodule(submodule)
    except AttributeError as error:
        parts = ", ".join(name for name, _ in model.named_children())
        raise TrainingError(
            f"the model has no part {submodule!r} that the plan could be for; it has {parts}"
        ) from error


def logged_figures(stats: dict[str, Any]) -> dict[str, float]:
    """Return the figures of :meth:`Sparsifier.stats` that a logger plots, named ``sparsifier/..``.

    Those of the whole model; ``sparsifier/cost/NAME`` for each budget.  What has no value yet is
    left out.
    """
    figures = {name: stats.get(name) for name in _LOGGED}
    figures |= {f"cost/{name}": cost for name, cost in stats["costs"].items()}
    return {f"sparsifier/{k}": float(v) for k, v in figures.items() if isinstance(v, Real)}
