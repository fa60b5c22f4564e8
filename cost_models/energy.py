"""Cost in joules of one forward pass, from what a multiply-add and a moved byte take.

``energy = macs * energy_pj_per_mac[dtype] + bytes moved * energy_pj_per_byte``, both times 1e-12,
at the batch of the workload.  Bytes moved are the weights in the exported form (see ``memory``),
once, and the activations that every use reads and writes.  The model knows no caches: it tells what
the arithmetic and the traffic of one pass take, not what a wall plug would show.

Tiles are priced as lowered.  A ``Gather`` reads the kept inputs of every group of outputs and writes
them, and the convolution reads them again: three times their bytes, all in proportion to what is
kept; what is written in the end is fixed.  For ``element`` inputs and outputs are both fixed.
"""

import math

from cost_models.activations import num_macs, num_output_elements, num_rows
from cost_models.device_profile import DeviceProfile
from cost_models.element_types import bytes_per_element
from cost_models.errors import CostModelError
from cost_models.layout import Layout, LayoutKind
from cost_models.linear_cost import LinearCost
from cost_models.memory import BYTES_PER_INDEX, MemoryCost, num_groups
from cost_models.workload import ActivationProduct, LayerShape, LayerWorkload, Workload

JOULES_PER_PJ = 1e-12

GATHER_MOVES = 3
"""How often a gathered input moves: read by ``Gather``, written by it, read by the convolution."""


class EnergyCost:
    """Energy of arithmetic and of moving bytes."""

    name = "energy"
    unit = "J"
    needs_profile = True

    def dense_cost(self, layer: LayerWorkload, profile: DeviceProfile | None) -> float:
        """Multiply-adds, weights once, and the activations of every use.

        Raises:
            CostModelError: the profile does not tell the device's energies.
        """
        num_bytes = MemoryCost().dense_cost(layer, profile) * _share_read(layer)
        num_bytes += sum(input_bytes(use) + output_bytes(use) for use in layer.uses)
        return _joules(_macs(layer), num_bytes, layer.shape.dtype, profile)

    def linear_cost(
        self, layer: LayerWorkload, layout: Layout, profile: DeviceProfile | None
    ) -> LinearCost:
        """Per block its multiply-adds, its bytes and what is gathered for it.

        Raises:
            CostModelError: the profile does not tell the device's energies.
        """
        dtype = layer.shape.dtype
        stored = MemoryCost().linear_cost(layer, layout, profile)
        num_blocks = layout.num_whole_blocks(layer.shape.weight_shape)
        share = _share_read(layer)
        fixed = stored.fixed * share + sum(map(output_bytes, layer.uses))
        gathered = 0.0
        if layout.kind is LayoutKind.ELEMENT:
            fixed += sum(map(input_bytes, layer.uses))
        else:
            gathered = sum(gathered_bytes(use, layout.tile_outputs) for use in layer.uses)
        per_block = stored.per_block * share + GATHER_MOVES * gathered / num_blocks
        return LinearCost(
            dense=self.dense_cost(layer, profile),
            fixed=_joules(0, fixed, dtype, profile),
            per_block=_joules(_macs(layer) / num_blocks, per_block, dtype, profile),
            unit=self.unit,
            source="estimated",
        )

    def rest(self, workload: Workload, profile: DeviceProfile | None) -> float:
        """Products of activations; other operations are not priced.

        Raises:
            CostModelError: the profile does not tell the device's energies.
        """
        dtype = workload.layers[0].shape.dtype if workload.layers else "float32"
        width = bytes_per_element(dtype)
        return sum(
            _joules(*_product_figures(product, width), dtype, profile)
            for product in workload.products
        )


def input_bytes(shape: LayerShape) -> float:
    """Return the bytes of the activations that one use reads."""
    width = BYTES_PER_INDEX if shape.op == "embedding" else bytes_per_element(shape.dtype)
    return math.prod(shape.input_shape) * width


def output_bytes(shape: LayerShape) -> float:
    """Return the bytes of the activations that one use writes."""
    return num_output_elements(shape) * bytes_per_element(shape.dtype)


def gathered_bytes(shape: LayerShape, tile_outputs: int) -> float:
    """Return the bytes gathered for one use if every group of outputs kept every input."""
    return num_groups(shape, tile_outputs) * input_bytes(shape)


def _product_figures(product: ActivationProduct, width: float) -> tuple[float, float]:
    """Multiply-adds and bytes of all calls of one product, at the batch that its shapes hold."""
    left, right = math.prod(product.left_shape), math.prod(product.right_shape)
    macs = left * product.right_shape[-1]
    output = macs // product.left_shape[-1]
    return float(product.num_calls * macs), product.num_calls * (left + right + output) * width


def _share_read(layer: LayerWorkload) -> float:
    """The share of the stored weight that a pass reads: of a table the rows looked up at most."""
    if layer.shape.op != "embedding":
        return 1.0
    return min(1.0, sum(map(num_rows, layer.uses)) / layer.shape.weight_shape[0])


def _macs(layer: LayerWorkload) -> float:
    return float(sum(map(num_macs, layer.uses)))


def _joules(macs: float, num_bytes: float, dtype: str, profile: DeviceProfile | None) -> float:
    if profile is None:
        raise CostModelError(
            "energy depends on the device; give a profile whose facts state energy_pj_per_mac "
            "and energy_pj_per_byte"
        )
    per_mac = profile.facts.energy_pj_per_mac.get(dtype)
    per_byte = profile.facts.energy_pj_per_byte
    if per_mac is None or per_byte is None:
        missing = "energy_pj_per_byte" if per_byte is None else f"energy_pj_per_mac of {dtype}"
        raise CostModelError(
            f"profile {profile.name!r} has no {missing}, without which energy cannot be told; "
            "add it to the profile's facts with the reference that it comes from"
        )
    return (macs * per_mac.value + num_bytes * per_byte.value) * JOULES_PER_PJ
