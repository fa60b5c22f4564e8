"""What an exported file says about itself; needs no torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from cost_models.documents import document, parse_document, to_plain
from spartan_planner.errors import ModelError
from spartan_planner.planning import Plan, PlanBudget, PlanProfile, plan_fingerprint

METADATA_KEY = "spartan_planner"

LOWERED = "lowered"


@document
@dataclass(frozen=True)
class ExportMetadata:
    """The promise that travels inside the ONNX file.

    Attributes:
        model: what the user called the model.
        model_fingerprint: of the plan.
        form: ``masked``, ``lowered``, or ``dense`` where no plan was given.
        density: share of the weights of all layers that is kept.
        densities: the same for each pruned layer.
        costs: asked and predicted costs of this very file.
        profile: the profile behind the predictions; ``None`` where no device was needed.
        plan_fingerprint: of the plan; ``None`` without one.
        input_shapes: shapes of the example inputs, which the costs are for.
    """

    model: str
    model_fingerprint: str
    form: str
    density: float
    densities: dict[str, float]
    costs: tuple[PlanBudget, ...]
    profile: PlanProfile | None
    plan_fingerprint: str | None = None
    input_shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def latency(self) -> PlanBudget | None:
        """The latency of this file, where it is known."""
        return next((cost for cost in self.costs if cost.cost == "latency"), None)


def lowered_layers(plan: Plan, kept_sizes: Mapping[str, float]) -> frozenset[str]:
    """Return the layers whose zero blocks are worth skipping, when so many whole blocks are kept.

    The plan's own rule: a layer is lowered where that saves any budgeted cost that depends on the
    form of the file (``planning.forms``).
    """
    return plan.lowered_layers(kept_sizes)


def _executed(plan: Plan, cost: PlanBudget, kept_sizes: Mapping[str, float], form: str) -> float:
    """Return a cost of a file in that form; lowered layers are those that the plan says."""
    if form == LOWERED:
        return plan.predicted(cost.cost, kept_sizes)
    return cost.rest + sum(
        layer.predicted(cost.cost, kept_sizes.get(layer.name), lowered=False)
        for layer in plan.layers
    )


def metadata_of(plan: Plan, kept_sizes: Mapping[str, float], form: str) -> ExportMetadata:
    """Describe a file whose planned layers keep so many whole blocks.

    Args:
        plan: the plan.
        kept_sizes: for each sparse layer.
        form: ``lowered``, or ``masked``, which stores and multiplies zeros like a dense one.
    """
    costs = tuple(
        replace(cost, predicted=_executed(plan, cost, kept_sizes, form)) for cost in plan.all_costs
    )
    densities = {
        layer.name: min(1.0, kept_sizes[layer.name] / layer.num_whole_blocks)
        for layer in plan.sparse_layers
    }
    num_weights = sum(layer.num_weights for layer in plan.layers)
    num_kept = sum(layer.num_weights * densities.get(layer.name, 1.0) for layer in plan.layers)
    return ExportMetadata(
        plan.model,
        plan.model_fingerprint,
        form,
        num_kept / num_weights,
        densities,
        costs,
        plan.profile,
        plan_fingerprint(plan),
        plan.input_shapes,
    )


def metadata_of_dense(
    model: str, model_fingerprint: str, input_shapes: tuple[tuple[int, ...], ...]
) -> ExportMetadata:
    """Describe a file that was written without a plan."""
    return ExportMetadata(
        model, model_fingerprint, "dense", 1.0, {}, (), None, input_shapes=input_shapes
    )


def dump_metadata(metadata: ExportMetadata) -> str:
    """Return the text that is stored under :data:`METADATA_KEY`."""
    return json.dumps(to_plain(metadata))


def read_metadata(path: Path) -> ExportMetadata | None:
    """Return what the file says about itself, or ``None`` when it was not exported here.

    Raises:
        ModelError: the file is not an ONNX model.
        DocumentError: the metadata are damaged.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        raise ModelError(f"{path} is not an ONNX file that can be read: {error}") from error
    for item in model.metadata_props:
        if item.key == METADATA_KEY:
            return parse_document(item.value, ExportMetadata, f"metadata of {path}")
    return None
