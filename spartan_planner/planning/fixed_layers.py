"""Layers that no plan may prune, and why."""

from collections.abc import Sequence

from cost_models import LayerWorkload, Workload

WORTH_TELLING = 0.05
"""Share of the weights from which on a plan says that they cannot be pruned."""


def nothing_to_prune(workload: Workload) -> str:
    """Return the sentence that says why no layer of a model can be pruned."""
    fixed = _fixed(workload)
    if len(fixed) == len(workload.layers):
        return (
            f"no layer of {workload.model} can be pruned: {_such_as(fixed)}; change how the model "
            "stores or uses them, or plan its ONNX file"
        )
    beside = f"; {len(fixed)} layer(s) never can, {_such_as(fixed)}" if fixed else ""
    return (
        f"no layer of {workload.model} can be pruned in the layouts that are considered{beside}; "
        "block layouts need convolutions whose inputs are a multiple of 16 (at least 32) and whose "
        "outputs are a multiple of 32; give others with --layout"
    )


def fixed_layers_warning(workload: Workload) -> tuple[str, ...]:
    """Return a sentence about the layers that stay dense whatever is asked, where they are many."""
    fixed = _fixed(workload)
    share = sum(layer.num_weights for layer in fixed) / sum(
        layer.num_weights for layer in workload.layers
    )
    if share < WORTH_TELLING:
        return ()
    return (
        f"{len(fixed)} of {len(workload.layers)} layers with {share:.0%} of the weights cannot be "
        f"pruned: {_such_as(fixed)}",
    )


def _fixed(workload: Workload) -> list[LayerWorkload]:
    return [layer for layer in workload.layers if not layer.prunable]


def _such_as(layers: Sequence[LayerWorkload]) -> str:
    """The largest layer and its reason, for each kind of reason."""
    largest: dict[str, LayerWorkload] = {}
    for layer in sorted(layers, key=lambda layer: -layer.num_weights):
        kind = (layer.not_prunable_because or "the workload says so").split(", as [")[0]
        largest.setdefault(kind, layer)
    return ", ".join(f"{kind} (such as {layer.name})" for kind, layer in largest.items())
