"""What is measured of a layer: its dense form, its lowered forms, its dense form at fewer channels.

Lowered forms are measured at several densities; fewer channels only where channels may go.
"""

from collections.abc import Sequence

from cost_models import LayerShape, LayerWorkload, Layout, LayoutKind
from cost_models.channel_shapes import resized
from cost_models.layer_work import is_lowerable as is_lowerable_shape

GROUP_SIZES = (32, 64, 128, 256)
CONVOLUTION_GROUP_SIZES = (32, 64, 128)
LINEAR_GROUP_SIZES = (64, 128, 256)
"""Linear layers gather whole rows of activations for each group: many small groups cost more than
they save (docs/measurements.md)."""

DENSITIES = (1 / 8, 1 / 4, 1 / 2, 3 / 4)
STEP = 16
"""Inputs per rank slice.  Runtimes block channels by 8 or 16 (their vector width); a group whose
inputs are not a multiple runs in a path that is up to twice as slow (docs/measurements.md)."""


CHANNEL_SHARES = (1 / 2, 1 / 4)
"""Shares of its inputs and of its outputs at which a layer is measured dense too."""


def channel_points(shape: LayerShape) -> tuple[LayerShape, ...]:
    """Return the shape at fewer channels, the same share of inputs and outputs, on whole steps."""

    def fewer(share: float) -> LayerShape:
        return resized(shape, lambda size: _on_whole_steps(size, share))

    points = dict.fromkeys(fewer(share) for share in CHANNEL_SHARES)
    return tuple(point for point in points if point != shape)


def _on_whole_steps(size: int, share: float) -> int:
    return min(size, STEP * max(1, round(share * size / STEP)))


def is_lowerable(layer: LayerWorkload) -> bool:
    """Whether there is a lowered form for the layer's operation at all."""
    return all(is_lowerable_shape(shape) for shape in layer.uses)


def candidate_layouts(shape: LayerShape) -> tuple[Layout, ...]:
    """Return the layouts in which a layer of this shape can be lowered without padding."""
    if not is_lowerable_shape(shape):
        return ()
    outputs, inputs = shape.weight_shape[:2]
    if inputs % STEP or inputs < 2 * STEP:
        return ()
    sizes = LINEAR_GROUP_SIZES if shape.op == "linear" else CONVOLUTION_GROUP_SIZES
    return tuple(Layout(LayoutKind.TILE, size, 1, STEP) for size in sizes if outputs % size == 0)


def kept_block_counts(
    shape: LayerShape, layout: Layout, densities: Sequence[float] = DENSITIES
) -> tuple[int, ...]:
    """Return the numbers of kept blocks that come nearest to the densities, at least one."""
    num_blocks = layout.num_blocks(shape.weight_shape)
    return tuple(max(1, round(density * num_blocks)) for density in densities)
