"""What an exported file says about itself; needs no torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from onnx import ModelProto

from cost_models.documents import document, parse_document, to_plain
from spartan_planner.errors import ModelError
from spartan_planner.planning import Plan, PlanBudget, PlanLayer, PlanProfile, plan_fingerprint
from spartan_planner.planning.document import DENSE
from spartan_planner.planning.forms import COUNTED_COSTS

METADATA_KEY = "spartan_planner"
PLAN_KEY = "spartan_planner.plan"

LOWERED = "lowered"


@document
@dataclass(frozen=True)
class LayerPromise:
    """What a layer of the file shall take.

    Attributes:
        name: the weight's name in the model.
        layout: in which it is lowered; ``dense`` where it is not.
        predicted_ms: its latency in this file; ``None`` where the plan knows no latency.
        dense_ms: the same, were it dense.
        nodes: names of the graph's nodes that compute it.
    """

    name: str
    layout: str
    predicted_ms: float | None
    dense_ms: float | None
    nodes: tuple[str, ...]


@document
@dataclass(frozen=True)
class InputRange:
    """Values of an input of the model, of which others can be made up.

    Attributes:
        dtype: element type, such as ``int64``.
        low, high: least and greatest element of the example input.
    """

    dtype: str
    low: float
    high: float


@document
@dataclass(frozen=True)
class ExportMetadata:
    """The promise that travels inside the ONNX file.

    Attributes:
        model: what the user called the model.
        model_fingerprint: of the plan.
        form: ``masked``, ``sparse``, ``lowered``, or ``dense`` where no plan was given.
        density: share of the weights of all layers that is kept.
        densities: the same for each pruned layer.
        costs: asked and predicted costs of this very file.
        profile: the profile behind the predictions; ``None`` where no device was needed.
        plan_fingerprint: of the plan; ``None`` without one.
        input_shapes: shapes of the example inputs, which the costs are for.
        input_ranges: what their elements were.
        weights_fingerprint: SHA-256 of the weights that were exported, whatever the form.
        layers: what each layer of the plan shall take.
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
    input_ranges: tuple[InputRange, ...] = ()
    weights_fingerprint: str | None = None
    layers: tuple[LayerPromise, ...] = ()

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
    if form == LOWERED or (plan.kept_units and cost.cost in COUNTED_COSTS):
        return plan.predicted(cost.cost, kept_sizes)
    if plan.kept_units:
        return cost.dense
    return cost.rest + sum(
        layer.predicted(cost.cost, kept_sizes.get(layer.name), lowered=False)
        for layer in plan.layers
    )


def metadata_of(plan: Plan, kept_sizes: Mapping[str, float], form: str) -> ExportMetadata:
    """Describe a file whose planned layers keep so many whole blocks.

    Args:
        plan: the plan.
        kept_sizes: for each sparse layer.
        form: ``lowered``, or one that multiplies zeros like a dense one.
    """
    costs = tuple(
        replace(cost, predicted=_executed(plan, cost, kept_sizes, form)) for cost in plan.all_costs
    )
    densities = {
        layer.name: _density(layer, kept_sizes)
        for layer in plan.layers
        if layer.is_sparse or layer.num_removed_weights
    }
    sizes = {layer.name: layer.num_weights + layer.num_removed_weights for layer in plan.layers}
    num_weights = sum(sizes.values())
    num_kept = sum(size * densities.get(name, 1.0) for name, size in sizes.items())
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


def _density(layer: PlanLayer, kept_sizes: Mapping[str, float]) -> float:
    """Share that is kept of a weight, as it was before channels went."""
    share = min(1.0, kept_sizes[layer.name] / layer.num_whole_blocks) if layer.is_sparse else 1.0
    return share * layer.num_weights / (layer.num_weights + layer.num_removed_weights)


def metadata_of_dense(
    model: str, model_fingerprint: str, input_shapes: tuple[tuple[int, ...], ...]
) -> ExportMetadata:
    """Describe a file that was written without a plan."""
    return ExportMetadata(
        model, model_fingerprint, "dense", 1.0, {}, (), None, input_shapes=input_shapes
    )


def layer_promises(
    plan: Plan,
    kept_sizes: Mapping[str, float],
    form: str,
    nodes: Mapping[str, Sequence[str]],
    knows_latency: bool = True,
) -> tuple[LayerPromise, ...]:
    """Return what each layer of a plan shall take in a file of this form.

    Args:
        plan: the plan.
        kept_sizes: for each sparse layer, in whole blocks.
        form: of the file.
        nodes: names of the graph's nodes by layer.
        knows_latency: whether the plan's latencies hold for this file.
    """
    lowered = lowered_layers(plan, kept_sizes) if form == LOWERED else frozenset[str]()
    promises = []
    for layer in plan.layers:
        latency = layer.costs.get("latency") if knows_latency else None
        is_lowered = layer.name in lowered
        dense = layer.whole_cost("latency") if latency else None
        predicted = latency.dense if latency and form == LOWERED else dense
        if latency and is_lowered:
            predicted = latency.sparse(kept_sizes[layer.name])
        layout = layer.layout if is_lowered else DENSE
        promises.append(
            LayerPromise(layer.name, layout, predicted, dense, tuple(nodes.get(layer.name, ())))
        )
    return tuple(promises)


def dump_plan(plan: Plan) -> str:
    """Return the text that is stored under :data:`PLAN_KEY`."""
    return json.dumps(to_plain(plan))


def dump_metadata(metadata: ExportMetadata) -> str:
    """Return the text that is stored under :data:`METADATA_KEY`."""
    return json.dumps(to_plain(metadata))


def read_metadata(path: Path) -> ExportMetadata | None:
    """Return what the file says about itself, or ``None`` when it was not exported here.

    Raises:
        ModelError: the file is not an ONNX model.
        DocumentError: the metadata are damaged.
    """
    return metadata_in(read_graph(path), path)


def read_graph(path: Path) -> ModelProto:
    """Read a model; weights in further files are left there.

    Raises:
        ModelError: the file is not an ONNX model.
    """
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:
        raise ModelError(f"{path} is not an ONNX file that can be read: {error}") from error


def metadata_in(model: ModelProto, path: Path) -> ExportMetadata | None:
    """Return what a model read from a file says about itself, as :func:`read_metadata` does."""
    text = _property(model, METADATA_KEY)
    return None if text is None else parse_document(text, ExportMetadata, f"metadata of {path}")


def plan_in(model: ModelProto, path: Path) -> Plan | None:
    """Return the plan inside a model read from a file, or ``None`` where there is none.

    Raises:
        DocumentError: the plan is damaged, or of another version of this project.
    """
    text = _property(model, PLAN_KEY)
    return None if text is None else parse_document(text, Plan, f"plan inside {path}")


def _property(model: ModelProto, key: str) -> str | None:
    return next((item.value for item in model.metadata_props if item.key == key), None)
