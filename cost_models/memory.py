"""Cost in bytes: what the numbers of the exported model take, index overhead included.

Which form is priced, for elements of ``b`` bytes and int64 indices of 8 bytes:

- dense: ``b`` per element, once however often the weight is used;
- balanced tiles ``tile:OUTx1@STEP``: exactly what lowering writes.  For every use of the weight, a
  packed weight of whole groups of ``OUT`` outputs, and one index per kept input of every group.
  Where the last group is not full, its filters are filled up with zeros, and the bias as well, and
  the three bounds of a ``Slice`` cut them off again; bias and bounds are the fixed part;
- everything else (``element``, unbalanced tiles, tiles of layers that are no plain convolution) is
  exported masked, a dense tensor with zeros: as large as dense, so that nothing is gained.  ONNX's
  ``sparse_initializer`` takes less for few elements, but only files exported in that form hold it.

Names, shapes and nodes are not counted (some ten to hundred bytes each), nor are buffers such as
running statistics, which a workload does not know.
"""

import math

from cost_models.device_profile import DeviceProfile
from cost_models.layer_work import bytes_per_number
from cost_models.layout import Layout
from cost_models.linear_cost import LinearCost
from cost_models.roofline import skips_zeros
from cost_models.workload import LayerShape, LayerWorkload, Workload

BYTES_PER_INDEX = 8
"""Lowering writes int64 indices for ``Gather``."""

SLICE_BYTES = 3 * BYTES_PER_INDEX
"""Start, end and axis of the ``Slice`` that cuts padded outputs off."""


class MemoryCost:
    """Bytes of weights and indices in the exported file."""

    name = "memory"
    unit = "bytes"
    needs_profile = False

    def dense_cost(self, layer: LayerWorkload, profile: DeviceProfile | None) -> float:  # noqa: ARG002
        """``elements * bytes per element``.

        Raises:
            CostModelError: the size of the element type is not known.
        """
        return float(layer.num_weights * bytes_per_number(layer.shape.dtype))

    def linear_cost(
        self, layer: LayerWorkload, layout: Layout, profile: DeviceProfile | None
    ) -> LinearCost:
        """Bytes of the form that the module's text names.

        Raises:
            CostModelError: the size of the element type is not known.
        """
        dense = self.dense_cost(layer, profile)
        if not all(skips_zeros(shape, layout) for shape in layer.uses):
            return LinearCost(dense, dense, 0.0, self.unit)
        num_blocks = layout.num_whole_blocks(layer.shape.weight_shape)
        whole = sum(lowered_bytes(shape, layout.tile_outputs) for shape in layer.uses)
        fixed = sum(padding_bytes(shape, layout.tile_outputs) for shape in layer.uses)
        return LinearCost(dense, fixed, whole / num_blocks, self.unit)

    def rest(self, workload: Workload, profile: DeviceProfile | None) -> float:  # noqa: ARG002
        """Parameters outside all layers, at the width of the model's widest weight.

        Raises:
            CostModelError: the size of an element type is not known.
        """
        num_outside = workload.num_parameters - sum(layer.num_weights for layer in workload.layers)
        widths = [bytes_per_number(layer.shape.dtype) for layer in workload.layers]
        return num_outside * max(widths, default=bytes_per_number("float32"))


def num_groups(shape: LayerShape, tile_outputs: int) -> int:
    """Return the groups of outputs that read inputs of their own."""
    return -(-shape.weight_shape[0] // tile_outputs)


def lowered_bytes(shape: LayerShape, tile_outputs: int) -> float:
    """Return the bytes of packed weight and indices if every group kept every input."""
    inputs, *kernel = shape.weight_shape[1:]
    num_elements = num_groups(shape, tile_outputs) * tile_outputs * inputs * math.prod(kernel)
    num_indices = num_groups(shape, tile_outputs) * inputs
    return num_elements * bytes_per_number(shape.dtype) + BYTES_PER_INDEX * num_indices


def padding_bytes(shape: LayerShape, tile_outputs: int) -> float:
    """Return the bytes that filling up the last group adds besides weights: bias and bounds."""
    num_added = num_groups(shape, tile_outputs) * tile_outputs - shape.weight_shape[0]
    if num_added == 0:
        return 0.0
    return SLICE_BYTES + shape.has_bias * num_added * bytes_per_number(shape.dtype)
