"""Lowering a whole graph that nobody planned: each layer in the form that pays."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir
from onnx_ir.passes import common as passes

from cost_models import DeviceProfile
from spartan_planner.lowering.choice import Choice, Measure, choose, least_ms
from spartan_planner.lowering.dead_channels import RemovedChannels, remove_dead_channels
from spartan_planner.lowering.emitting import emit
from spartan_planner.lowering.forms import candidates
from spartan_planner.lowering.structure import zero_structure
from spartan_planner.lowering.transposes import cancel_transposes
from spartan_planner.lowering.weight_nodes import Shapes, WeightNode, find_weight_nodes


@dataclass(frozen=True)
class NodeReport:
    """What became of one layer, and why.

    Attributes:
        name: of its weight in the file.
        op: of its node.
        weight_shape: ``[out, in, *kernel]``, after dead channels were removed.
        density: non-zero share of that weight.
        form: the form that it has now.
        num_macs_before, num_macs_after: multiply-adds, dense and now.
        speedup: estimated or measured, of the best form over the dense one; 1 where there is none.
        basis: where that figure comes from.
        why: one phrase.
    """

    name: str
    op: str
    weight_shape: tuple[int, ...]
    density: float
    form: str
    num_macs_before: int
    num_macs_after: int
    speedup: float
    basis: str
    why: str


@dataclass(frozen=True)
class LoweringReport:
    """What became of a graph.

    Attributes:
        nodes: one entry per layer, in order.
        removed: channels that were taken out between layers.
    """

    nodes: tuple[NodeReport, ...]
    removed: RemovedChannels

    @property
    def num_lowered(self) -> int:
        """Layers that are written in another form now."""
        return sum(item.form != "dense" for item in self.nodes)


def lower_model(
    model: ir.Model,
    shapes: Shapes,
    profile: DeviceProfile | None = None,
    measure: Measure | None = None,
    advance: Callable[[str], object] = lambda _: None,
) -> LoweringReport:
    """Make the zero blocks of a graph's weights pay, in place.

    Channels that are dead between layers are taken out first, then every layer is given the form
    that is fastest, or left as it is where none pays.  Outputs stay the same within rounding, and
    so do the names of inputs and outputs.

    Args:
        model: the graph.
        shapes: of its values, by name, at the batch size to choose for.
        profile: of the device, for the choice.
        measure: measures forms on this device, for the choice.
        advance: called with the name of each layer that is done.

    Raises:
        CostModelError: the profile cannot price a layer.
    """
    graph = model.graph
    removed = remove_dead_channels(graph, shapes, partial(least_ms, profile=profile))
    passes.RemoveUnusedNodesPass()(model)
    shapes = removed.shapes_after(shapes)
    reports, labels = [], Counter[str]()
    for layer in find_weight_nodes(graph, shapes):
        labels[layer.name] += 1
        suffix = f".use{labels[layer.name] - 1}" if labels[layer.name] > 1 else ""
        choice = _choose(layer, shapes, profile, measure)
        if choice is not None and not choice.candidate.form.is_dense:
            emit(graph, layer, choice.candidate.form, layer.name + suffix)
        reports.append(_report(layer, choice))
        advance(layer.name)
    cancel_transposes(graph)
    passes.RemoveUnusedNodesPass()(model)
    return LoweringReport(tuple(reports), removed)


def _choose(
    layer: WeightNode, shapes: Shapes, profile: DeviceProfile | None, measure: Measure | None
) -> Choice | None:
    output_shape = shapes.get(str(layer.output.name))
    if output_shape is None or not all(output_shape):
        return None
    found = candidates(layer, output_shape)
    return choose(layer, found, profile, measure) if len(found) > 1 else None


def _report(layer: WeightNode, choice: Choice | None) -> NodeReport:
    density = zero_structure(layer.weight).density
    macs = choice.dense.num_macs if choice else 0
    return NodeReport(
        name=layer.name,
        op=layer.node.op_type,
        weight_shape=tuple(layer.weight.shape),
        density=density,
        form=str(choice.candidate.form) if choice else "dense",
        num_macs_before=macs,
        num_macs_after=choice.candidate.num_macs if choice else macs,
        speedup=choice.speedup if choice else 1.0,
        basis=choice.basis if choice else "",
        why=_why(density, choice),
    )


def _why(density: float, choice: Choice | None) -> str:
    if choice is None:
        return "has no zeros" if density == 1 else "no form skips its zeros"
    if choice.candidate.form.is_dense:
        return f"{choice.best.form} would not pay"
    return f"reads {choice.candidate.width} of the inputs"
