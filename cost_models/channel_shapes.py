"""Shapes of a model from which channels are gone: exact, and needing nothing but the workload.

A layer's weight loses outputs with the groups that cut its outputs and inputs with those that cut
its inputs; several groups may cut one axis (after a concatenation).  Where a unit is made of whole
groups of a grouped or depthwise convolution, that convolution has so many groups fewer.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cost_models.channel_group import ChannelGroup, ChannelSlice
from cost_models.errors import CostModelError
from cost_models.layer_work import output_shape
from cost_models.workload import ActivationProduct, LayerShape, LayerWorkload, Workload

KeptUnits = Mapping[str, int]
"""How many units of each group are kept, by its name; a group that is not named stays whole."""

_BUFFERS = ("running_mean", "running_var")
"""Last part of the names of vectors that are no parameters: ``num_parameters`` has none of them."""


@dataclass(frozen=True)
class Cut:
    """How a group cuts one axis of a layer's weight.

    Attributes:
        group: name of the group.
        axis: of ``LayerShape.weight_shape``.
        num_units: of the group.
        elements_per_unit: entries along the axis that go with a unit.
        groups_per_unit: groups of the convolution that go with a unit; 0 where they stay.
    """

    group: str
    axis: int
    num_units: int
    elements_per_unit: int
    groups_per_unit: int = 0

    def num_removed(self, kept: KeptUnits) -> int:
        """Return how many units are gone."""
        return self.num_units - kept.get(self.group, self.num_units)


@dataclass(frozen=True)
class Cuts:
    """What the groups of a workload cut.

    Attributes:
        by_layer: how each layer's weight is cut; layers that no group cuts are left out.
        vector_elements: by group, elements per unit of biases and normalisation; running
            statistics are no parameters and left out.
    """

    by_layer: Mapping[str, tuple[Cut, ...]]
    vector_elements: Mapping[str, int]

    def of(self, layer: str) -> tuple[Cut, ...]:
        """Return how a layer is cut."""
        return self.by_layer.get(layer, ())


def cuts_of(workload: Workload) -> Cuts:
    """Return what the workload's groups cut.

    Raises:
        CostModelError: a group's slices do not fit the layers.
    """
    layers = {layer.name: layer for layer in workload.layers}
    by_layer: dict[str, list[Cut]] = {}
    vectors: dict[str, int] = {}
    for group in workload.channel_groups:
        for item in group.slices:
            if item.role == "vector":
                if item.tensor.rpartition(".")[2] not in _BUFFERS:
                    size = num_elements_per_unit(group, item)
                    vectors[group.name] = vectors.get(group.name, 0) + size
            elif item.tensor in layers:
                cut = _cut(group, item, layers[item.tensor])
                by_layer.setdefault(item.tensor, []).append(cut)
    return Cuts({name: tuple(cuts) for name, cuts in by_layer.items()}, vectors)


def num_elements_per_unit(group: ChannelGroup, item: ChannelSlice) -> int:
    """Return the entries of a slice that go with a unit.

    Raises:
        CostModelError: units differ in it, so that counts alone do not tell the shape.
    """
    sizes = {len(unit) for unit in item.indices}
    if len(sizes) != 1 or 0 in sizes:
        raise CostModelError(
            f"the units of channel group {group.name} take {sorted(sizes)} entries of "
            f"{item.tensor}, they must all take the same number; find the groups anew"
        )
    return sizes.pop()


def reduced_shape(shape: LayerShape, cuts: Iterable[Cut], kept: KeptUnits) -> LayerShape:
    """Return the shape of a layer without the channels that are gone.

    Raises:
        CostModelError: nothing, or no layer, is left.
    """
    weight, groups = list(shape.weight_shape), shape.groups
    for cut in cuts:
        num_removed = cut.num_removed(kept)
        weight[cut.axis] -= num_removed * cut.elements_per_unit
        groups -= num_removed * cut.groups_per_unit
    if tuple(weight) == shape.weight_shape:
        return shape
    try:
        return replace(
            shape,
            weight_shape=tuple(weight),
            groups=groups,
            input_shape=_input_shape(shape, weight, groups),
        )
    except ValueError as error:
        raise CostModelError(
            f"layer {shape.label()} cannot lose these channels: {error}; find the groups anew"
        ) from error


def resized(shape: LayerShape, size_of: Callable[[int], int]) -> LayerShape:
    """Return a shape whose numbers of outputs and inputs are what a function makes of them.

    Of a depthwise convolution its channels are; grouped ones and tables stay as they are.
    """
    is_depthwise = shape.groups > 1 and shape.weight_shape[1] == 1
    if shape.op == "embedding" or (shape.groups > 1 and not is_depthwise):
        return shape
    first, *others = shape.weight_shape
    if is_depthwise:
        groups = size_of(shape.groups)
        weight = (groups * (first // shape.groups), *others)
    else:
        groups = 1
        weight = (size_of(first), size_of(others[0]), *others[1:])
    place = _input_shape(shape, weight, groups)
    return replace(shape, weight_shape=weight, groups=groups, input_shape=place)


def reduced_layer(layer: LayerWorkload, cuts: Sequence[Cut], kept: KeptUnits) -> LayerWorkload:
    """Return a layer without the channels that are gone, at each of its uses.

    Raises:
        CostModelError: as ``reduced_shape``, or the layer's uses take parts of its weight.
    """
    if not any(cut.num_removed(kept) for cut in cuts):
        return layer
    if layer.sliced is not None:
        raise CostModelError(
            f"layer {layer.name} is used in slices, so that nobody can tell what removed channels "
            "leave of them; leave its groups out"
        )
    return replace(
        layer,
        shape=reduced_shape(layer.shape, cuts, kept),
        further_shapes=tuple(reduced_shape(use, cuts, kept) for use in layer.further_shapes),
    )


def reduced_workload(workload: Workload, kept: KeptUnits, cuts: Cuts | None = None) -> Workload:
    """Return the workload of the model that is left; it has no channel groups of its own.

    Layers, parameters beside layers (biases, normalisation) and the products of attention whose
    heads go are exact.  What other operations write is scaled by the share of activations left.

    Args:
        workload: the whole model.
        kept: units that are kept.
        cuts: ``cuts_of(workload)``, where it is known already.

    Raises:
        CostModelError: as ``reduced_layer``.
    """
    cuts = cuts_of(workload) if cuts is None else cuts
    layers = tuple(reduced_layer(layer, cuts.of(layer.name), kept) for layer in workload.layers)
    num_gone = sum(layer.num_weights for layer in workload.layers)
    num_gone -= sum(layer.num_weights for layer in layers)
    num_gone += sum(
        cuts.vector_elements.get(group.name, 0)
        * (group.num_units - kept.get(group.name, group.num_units))
        for group in workload.channel_groups
    )
    share = activation_share(workload.layers, layers)
    return replace(
        workload,
        layers=layers,
        num_parameters=workload.num_parameters - num_gone,
        products=reduced_products(workload, kept),
        unpriced=tuple(
            replace(item, num_output_elements=math.ceil(share * item.num_output_elements))
            for item in workload.unpriced
        ),
        channel_groups=(),
        graph="",
    )


def activation_share(layers: Sequence[LayerWorkload], reduced: Sequence[LayerWorkload]) -> float:
    """Return the share of the numbers written by layers that reduced ones still write."""
    before = sum(num_outputs(layer) for layer in layers)
    return sum(num_outputs(layer) for layer in reduced) / before if before else 1.0


def num_outputs(layer: LayerWorkload) -> int:
    """Return the numbers that all uses of a layer write."""
    return sum(math.prod(output_shape(use)) for use in layer.uses)


def reduced_products(workload: Workload, kept: KeptUnits) -> tuple[ActivationProduct, ...]:
    """Return the products of activations, those of attention with the heads that are left.

    A product is known to be attention's where its calls are as many as the groups of heads and
    its last dimension before the matrix counts their heads; any other stays as it was.
    """
    found: list[ActivationProduct] = []
    for product in workload.products:
        groups = _heads_of(product, workload)
        found += [_with_heads(product, group, kept) for group in groups] or [product]
    return tuple(found)


def _heads_of(product: ActivationProduct, workload: Workload) -> list[ChannelGroup]:
    """The groups whose heads a product multiplies; none where that cannot be said."""
    if len(product.left_shape) < 3 or len(product.right_shape) < 3:
        return []
    heads = [group for group in workload.channel_groups if group.kind == "head"]
    num_batched = product.left_shape[-3]
    same = [group for group in heads if group.num_units == num_batched]
    if not same and len({group.num_units for group in heads}) == 1:
        same = [group for group in heads if num_batched % group.num_units == 0]
    is_one_each = len(same) == product.num_calls and product.macs % product.num_calls == 0
    return same if is_one_each and product.right_shape[-3] == num_batched else []


def _with_heads(
    product: ActivationProduct, group: ChannelGroup, kept: KeptUnits
) -> ActivationProduct:
    num_kept = kept.get(group.name, group.num_units)
    left, right = (
        (*shape[:-3], shape[-3] * num_kept // group.num_units, *shape[-2:])
        for shape in (product.left_shape, product.right_shape)
    )
    macs = product.macs // product.num_calls * num_kept // group.num_units
    return replace(product, left_shape=left, right_shape=right, num_calls=1, macs=macs)


def _cut(group: ChannelGroup, item: ChannelSlice, layer: LayerWorkload) -> Cut:
    shape, size = layer.shape, num_elements_per_unit(group, item)
    axis = _axis(shape, item)
    if len(item.indices) != group.num_units or size * group.num_units > shape.weight_shape[axis]:
        raise CostModelError(
            f"channel group {group.name} has {group.num_units} units of {size} in {item.tensor}, "
            f"whose weight {shape.weight_shape} has no room for them; find the groups anew"
        )
    whole = _num_whole_groups(shape, item) if axis == 0 and shape.groups > 1 else 0
    return Cut(group.name, axis, group.num_units, size, whole)


def _axis(shape: LayerShape, item: ChannelSlice) -> int:
    """A matrix may be stored either way round, and its shape says outputs first."""
    if shape.op == "linear":
        return 0 if item.role == "output" else 1
    return item.dim


def _num_whole_groups(shape: LayerShape, item: ChannelSlice) -> int:
    """Groups of a convolution that a unit holds, if it holds nothing but whole ones; else 0."""
    per_group = shape.weight_shape[0] // shape.groups
    counts = [len({index // per_group for index in unit}) for unit in item.indices]
    is_whole = all(
        count * per_group == len(set(unit))
        for count, unit in zip(counts, item.indices, strict=True)
    )
    return counts[0] if is_whole and len(set(counts)) == 1 else 0


def _input_shape(shape: LayerShape, weight: Sequence[int], groups: int) -> tuple[int, ...]:
    if shape.op == "embedding":
        return shape.input_shape
    if shape.op == "linear":
        return (*shape.input_shape[:-1], weight[1])
    num_inputs = weight[0] if "transpose" in shape.op else weight[1] * groups
    return (shape.input_shape[0], num_inputs, *shape.input_shape[2:])
