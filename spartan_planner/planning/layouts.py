"""Which layouts a layer may have; needs no torch."""

import math
from collections.abc import Sequence

from cost_models import DeviceProfile, LayerWorkload, Layout, LayoutKind
from cost_models.roofline import is_n_m_op, skips_zeros
from spartan_planner.errors import PlanError
from spartan_planner.profiling.treatments import candidate_layouts, is_lowerable

LINEAR_LAYOUT = Layout(LayoutKind.TILE, 64, 1)
"""Of linear layers that cannot be lowered, where no device and no layout is given."""


def layouts_of(
    layer: LayerWorkload, profile: DeviceProfile | None = None, wanted: Sequence[Layout] = ()
) -> tuple[Layout, ...]:
    """Return the layouts to consider for a layer, beside leaving it dense.

    Of wanted layouts, those that the layer can have and, on a device, that save time there:
    balanced ones need a lowered form, n:m whole groups of inputs.  Else what the profile measured
    of the layer, or what could be lowered, and the n:m patterns that the device has hardware for.
    Without a device, linear layers that cannot be lowered take ``tile:64x1``.
    """
    if wanted:
        possible = tuple(layout for layout in wanted if can_have(layer, layout))
        return possible if profile is None else _executed(layer, profile, possible)
    if profile is None:
        masked = (LINEAR_LAYOUT,) if layer.shape.op == "linear" else ()
        return candidate_layouts(layer.shape) or masked
    timing = profile.timing(layer.shape)
    measured = tuple(Layout.parse(sparse.layout) for sparse in timing.sparse) if timing else ()
    return (measured or candidate_layouts(layer.shape)) + _patterns(layer, profile)


def can_have(layer: LayerWorkload, layout: Layout) -> bool:
    """Whether a layer can be pruned in a layout at all."""
    if layout.kind is LayoutKind.N_M:
        return layout.fits(layer.shape.weight_shape) and is_n_m_op(layer.shape)
    return not layout.balanced_step or is_lowerable(layer)


def rows_are_outputs(layer: LayerWorkload, stored_shape: tuple[int, ...]) -> bool:
    """Whether a weight is stored as its layer uses it.

    It is not where it is transposed (as in GPT-2), sliced or packed; such a layer stays dense.

    Raises:
        PlanError: the stored weight has another number of elements: it is another model's.
    """
    if stored_shape == layer.shape.weight_shape:
        return True
    if math.prod(stored_shape) != layer.num_weights:
        raise PlanError(
            f"the weight of layer {layer.name} has shape {stored_shape}, the workload says "
            f"{layer.shape.weight_shape}; give the weights of this model"
        )
    return False


def _executed(
    layer: LayerWorkload, profile: DeviceProfile, wanted: Sequence[Layout]
) -> tuple[Layout, ...]:
    """The wanted layouts that save time on a device: measured there, or with a lowered form."""
    timing = profile.timing(layer.shape)
    measured = {sparse.layout for sparse in timing.sparse} if timing else set()
    return tuple(
        layout
        for layout in wanted
        if str(layout) in measured or skips_zeros(layer.shape, layout, profile.facts)
    )


def _patterns(layer: LayerWorkload, profile: DeviceProfile) -> tuple[Layout, ...]:
    """The n:m patterns that a device executes faster than dense layers."""
    patterns = tuple(Layout.parse(text) for text in profile.facts.sparse_speedups)
    return tuple(
        pattern for pattern in patterns if skips_zeros(layer.shape, pattern, profile.facts)
    )
