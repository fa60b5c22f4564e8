"""Cost in floating-point operations: two per multiply-add."""

from cost_models.device_profile import DeviceProfile
from cost_models.layout import Layout
from cost_models.linear_cost import LinearCost
from cost_models.workload import LayerWorkload, Workload

FLOPS_PER_MAC = 2


class FlopsCost:
    """An element costs two operations at each of its positions."""

    name = "flops"
    unit = "FLOPs"
    needs_profile = False

    def dense_cost(self, layer: LayerWorkload, profile: DeviceProfile | None) -> float:  # noqa: ARG002
        """``2 * elements * positions``."""
        return float(FLOPS_PER_MAC * layer.macs)

    def linear_cost(
        self, layer: LayerWorkload, layout: Layout, profile: DeviceProfile | None
    ) -> LinearCost:
        """``2 * elements per block * positions``; nothing fixed."""
        dense = self.dense_cost(layer, profile)
        num_blocks = layout.num_whole_blocks(layer.shape.weight_shape)
        return LinearCost(dense, 0.0, dense / num_blocks, self.unit)

    def rest(self, workload: Workload, profile: DeviceProfile | None) -> float:  # noqa: ARG002
        """Products of activations, such as attention's; the unit counts multiply-adds only."""
        return float(FLOPS_PER_MAC * workload.product_macs)
