"""From recorded calls to the entries of a workload."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from cost_models import LayerWorkload
from cost_models.workload import ActivationProduct, SlicedWeight
from spartan_planner.extraction.provenance import Placement
from spartan_planner.extraction.recorder import Use


def layer_of(name: str, uses: Sequence[Use], batch_size: int) -> LayerWorkload:
    """Return what a weight does: ``positions = macs / (batch * elements)``.

    Look-ups in a table that is multiplied elsewhere (tied to a head) do not count as positions.
    """
    products = [use for use in uses if use.role.shape.op != "embedding"]
    main = (products or list(uses))[0]
    num_elements = main.source.num_elements
    reason = _why_not_prunable(uses, batch_size)
    positions = _positions(products or uses, batch_size)
    is_whole = positions.denominator == 1 and main.role.shape.num_weights == num_elements
    shapes = [shape for use in uses for shape in (use.role.shape,) * use.role.num_uses]
    macs = Fraction(sum(use.macs for use in uses), batch_size)
    return LayerWorkload(
        name=name,
        shape=main.role.shape,
        positions=max(1, math.ceil(positions)),
        num_uses=shapes.count(main.role.shape),
        prunable=not reason,
        not_prunable_because=reason,
        further_shapes=tuple(shape for shape in shapes if shape != main.role.shape),
        sliced=None if is_whole else SlicedWeight(num_elements, round(macs)),
    )


def _positions(uses: Sequence[Use], batch_size: int) -> Fraction:
    if uses[0].role.shape.op == "embedding":
        return Fraction(sum(math.prod(use.role.shape.input_shape) for use in uses), batch_size)
    return Fraction(sum(use.macs for use in uses), batch_size * uses[0].source.num_elements)


def _why_not_prunable(uses: Sequence[Use], batch_size: int) -> str:
    """Return the first reason that stands against mapping stored blocks to rows and inputs."""
    if any(use.role.shape.op == "embedding" for use in uses):
        return "it is a look-up table, any row of which may be asked for"
    reasons = [reason for use in uses if (reason := _misfit(use))]
    if reasons:
        return reasons[0]
    if _positions(uses, batch_size).denominator != 1:
        return "its work is not the same for each sample of the batch"
    return ""


def _misfit(use: Use) -> str:
    source, used = use.source, use.placement
    if source.computed_by:
        return f"the weight in use is computed from it in every forward pass ({source.computed_by})"
    if math.prod(used.shape) < source.num_elements:
        return "its operations use parts of it"
    if use.role.num_uses > 1:
        return "it is a stack of matrices, each with inputs of its own"
    if source.placement is None:
        return "the weight in use is a rearranged copy of it"
    if used == source.placement:
        return ""
    if used == _transposed(source.placement):
        rows, columns = used.shape
        return f"it is stored transposed, as [in {columns}, out {rows}]"
    return f"it is used as {_by(used.shape)} and stored as {_by(source.placement.shape)}"


def _transposed(placement: Placement) -> Placement | None:
    if len(placement.shape) != 2:
        return None
    return replace(placement, shape=placement.shape[::-1], strides=placement.strides[::-1])


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def products_of(
    calls: Mapping[tuple[str, tuple[int, ...], tuple[int, ...]], Sequence[int]], batch_size: int
) -> tuple[ActivationProduct, ...]:
    """Return the products without a weight, merged by operation and shapes."""
    return tuple(
        ActivationProduct(op, left, right, len(macs), round(Fraction(sum(macs), batch_size)))
        for (op, left, right), macs in calls.items()
    )
