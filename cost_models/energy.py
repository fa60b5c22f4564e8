"""Cost in joules of one forward pass, from what a multiply-add and a moved byte take.

``energy = macs * energy_pj_per_mac[dtype] + bytes moved * energy_pj_per_byte``, both times 1e-12,
at the batch of the workload.  Bytes moved are the weights in the exported form (see ``memory``),
once, and the activations that every use reads and writes.  The model knows no caches: it tells what
the arithmetic and the traffic of one pass take, not what a wall plug would show.

Balanced tiles of plain convolutions are priced as lowered, with what filling up the last group
adds.  A ``Gather`` reads the kept inputs of every group of outputs and writes them, and the
convolution reads them again: all that is in proportion to what is kept; what is written in the end
is fixed.  Every other form is exported masked and takes what the dense one takes, since zeros are
read and multiplied too.
"""

import math
from collections.abc import Iterable

from cost_models.device_profile import DeviceProfile
from cost_models.errors import CostModelError
from cost_models.flops import FLOPS_PER_MAC
from cost_models.layer_work import LayerWork, bytes_per_number, layer_work, lowered_work
from cost_models.layout import Layout
from cost_models.linear_cost import LinearCost
from cost_models.memory import MemoryCost
from cost_models.roofline import skips_zeros
from cost_models.workload import ActivationProduct, LayerWorkload, Workload

JOULES_PER_PJ = 1e-12


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
        work = [layer_work(use) for use in layer.uses]
        num_bytes = MemoryCost().dense_cost(layer, profile) * _share_read(layer)
        return _joules(_macs(work), num_bytes + _activation_bytes(work), layer.shape.dtype, profile)

    def linear_cost(
        self, layer: LayerWorkload, layout: Layout, profile: DeviceProfile | None
    ) -> LinearCost:
        """Per block its multiply-adds, its bytes and what is gathered for it.

        Raises:
            CostModelError: the profile does not tell the device's energies.
        """
        dense = self.dense_cost(layer, profile)
        if not all(skips_zeros(use, layout) for use in layer.uses):
            return LinearCost(dense, dense, 0.0, self.unit, "estimated")
        dtype, share = layer.shape.dtype, _share_read(layer)
        stored = MemoryCost().linear_cost(layer, layout, profile)
        num_blocks = layout.num_whole_blocks(layer.shape.weight_shape)
        none, everything = _work_between(layer, layout)
        moved = _activation_bytes(everything) - _activation_bytes(none)
        return LinearCost(
            dense=dense,
            fixed=_joules(0, stored.fixed * share + _activation_bytes(none), dtype, profile),
            per_block=_joules(
                _macs(everything) / num_blocks,
                stored.per_block * share + moved / num_blocks,
                dtype,
                profile,
            ),
            unit=self.unit,
            source="estimated",
        )

    def rest(self, workload: Workload, profile: DeviceProfile | None) -> float:
        """Products of activations; other operations are not priced.

        Raises:
            CostModelError: the profile does not tell the device's energies.
        """
        dtype = workload.layers[0].shape.dtype if workload.layers else "float32"
        return sum(
            _joules(*_product_figures(product, dtype), dtype, profile)
            for product in workload.products
        )


def _work_between(layer: LayerWorkload, layout: Layout) -> tuple[list[LayerWork], list[LayerWork]]:
    """Work of every use with nothing kept and with everything kept; linear in between."""
    none, everything = (
        [lowered_work(use, layout, share) for use in layer.uses] for share in (0.0, 1.0)
    )
    return none, everything


def _product_figures(product: ActivationProduct, dtype: str) -> tuple[float, float]:
    """Multiply-adds and bytes of all calls of one product, at the batch that its shapes hold."""
    left, right = math.prod(product.left_shape), math.prod(product.right_shape)
    macs = left * product.right_shape[-1]
    num_elements = left + right + macs // product.left_shape[-1]
    num_bytes = num_elements * bytes_per_number(dtype)
    return float(product.num_calls * macs), float(product.num_calls * num_bytes)


def _share_read(layer: LayerWorkload) -> float:
    """The share of the stored weight that a pass reads: of a table the rows looked up at most."""
    if layer.shape.op != "embedding":
        return 1.0
    num_rows = sum(math.prod(use.input_shape) for use in layer.uses)
    return min(1.0, num_rows / layer.shape.weight_shape[0])


def _macs(work: Iterable[LayerWork]) -> float:
    return sum(use.num_flops for use in work) / FLOPS_PER_MAC


def _activation_bytes(work: Iterable[LayerWork]) -> float:
    return sum(use.num_input_bytes + use.num_output_bytes for use in work)


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
