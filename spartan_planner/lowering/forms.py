"""The forms in which a layer with zero blocks can be written, and the work of each.

=============== ==================================================================================
inputs dropped  inputs that no output reads are not gathered; one smaller operation
outputs dropped outputs that are constant are not computed, but filled in afterwards
grouped         each group of ``group_size`` outputs reads inputs of its own: a grouped
                convolution, or a batched product with features along the rows
=============== ==================================================================================
"""

import math
from dataclasses import dataclass

from cost_models.layer_work import LOWERED_LINEAR_RANKS, LayerWork, has_many_rows
from spartan_planner.lowering.structure import padded_width, zero_structure
from spartan_planner.lowering.weight_nodes import WeightNode

GROUP_SIZES = (16, 32, 64, 128, 256)
STEP = 16
"""Inputs per group come in multiples of it, the runtimes' vector width (docs/measurements.md)."""


@dataclass(frozen=True)
class Form:
    """One way to write a layer.

    Attributes:
        drops_inputs: whether unread inputs are left out.
        drops_outputs: whether constant outputs are left out and filled in again.
        group_size: outputs per group; 0 where all read the same inputs.
    """

    drops_inputs: bool = False
    drops_outputs: bool = False
    group_size: int = 0

    @property
    def is_dense(self) -> bool:
        """Whether the layer stays as it is."""
        return self == DENSE

    def __str__(self) -> str:
        """Short text for tables."""
        parts = ["inputs dropped"] * self.drops_inputs + ["outputs dropped"] * self.drops_outputs
        parts += [f"groups of {self.group_size}"] * (self.group_size > 0)
        return ", ".join(parts) or "dense"


DENSE = Form()


@dataclass(frozen=True)
class Candidate:
    """A form of a certain layer.

    Attributes:
        form: the form.
        num_macs: multiply-adds, at the batch size of the layer's shapes.
        work: everything that the device has to do.
        width: inputs that each output reads.
    """

    form: Form
    num_macs: int
    work: LayerWork
    width: int


def candidates(layer: WeightNode, output_shape: tuple[int, ...]) -> tuple[Candidate, ...]:
    """Return the dense form and every other one that computes less.

    Args:
        layer: the layer.
        output_shape: of its output, at the batch size of its source's shape.
    """
    dense = _candidate(layer, DENSE, output_shape)
    found = [_candidate(layer, form, output_shape) for form in _forms(layer)]
    return dense, *(item for item in found if item.num_macs < dense.num_macs)


def _forms(layer: WeightNode) -> list[Form]:
    structure = zero_structure(layer.weight)
    num_outputs, num_inputs = layer.weight.shape[:2]
    inputs = [False] + [True] * (len(structure.inputs) < num_inputs)
    outputs = [False] + [True] * (len(structure.outputs) < num_outputs)
    if not len(structure.outputs):
        return []
    forms = [Form(i, o) for i in inputs for o in outputs if i or o]
    if layer.kind == "linear" and len(layer.source_shape) not in LOWERED_LINEAR_RANKS:
        return forms
    sizes = [size for size in GROUP_SIZES if size < num_outputs]
    return forms + [Form(False, o, size) for o in outputs for size in sizes]


def _candidate(layer: WeightNode, form: Form, output_shape: tuple[int, ...]) -> Candidate:
    structure = zero_structure(layer.weight)
    outputs, inputs, *kernel = layer.weight.shape
    weight = layer.weight[structure.outputs] if form.drops_outputs else layer.weight
    num_outputs = len(weight)
    if form.group_size:
        num_groups = math.ceil(num_outputs / form.group_size)
        width = padded_width(weight, form.group_size, STEP)
        filled = num_groups * form.group_size
    else:
        num_groups, filled = 1, num_outputs
        width = len(structure.inputs) if form.drops_inputs else inputs
    num_places = math.prod(output_shape) // outputs
    macs = filled * width * math.prod(kernel) * num_places
    return Candidate(
        form, macs, _work(layer, form, filled, num_groups * width, macs, num_places), width
    )


def _work(
    layer: WeightNode, form: Form, filled: int, num_gathered: int, macs: int, num_places: int
) -> LayerWork:
    """Numbers moved: what is gathered, read, written, transposed, cut off and filled in."""
    outputs, inputs, *_ = layer.weight.shape
    size = layer.weight.dtype.itemsize
    source_places = math.prod(layer.source_shape) // inputs
    is_gathered = bool(form.group_size) or form.drops_inputs
    gathered = num_gathered * source_places if is_gathered else 0
    read = gathered or inputs * source_places
    moved, operations = 0, 1 + is_gathered
    if form.group_size and layer.kind == "linear" and needs_transposes(layer):
        moved += inputs * source_places + outputs * num_places
        operations += 2
    if form.drops_outputs:
        moved += 2 * outputs * num_places
        operations += 2
    written = filled * num_places
    return LayerWork(
        num_flops=2.0 * macs,
        num_weight_bytes=float(size * macs // max(1, num_places)),
        num_input_bytes=float(size * (gathered + read + moved)),
        num_output_bytes=float(size * (gathered + written + moved)),
        num_operations=operations,
    )


def needs_transposes(layer: WeightNode) -> bool:
    """Whether a grouped linear layer turns its activations features-major."""
    return has_many_rows(layer.source_shape)
