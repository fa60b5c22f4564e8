"""The interface that every cost model, built in or plugged in, implements."""

from typing import Protocol, runtime_checkable

from cost_models.device_profile import DeviceProfile
from cost_models.layout import Layout
from cost_models.linear_cost import CostSource, LinearCost
from cost_models.workload import LayerWorkload, Workload


@runtime_checkable
class CostModel(Protocol):
    """A quantity that can be budgeted.

    Attributes:
        name: what users write in a budget, such as ``latency``.
        unit: unit of every figure it returns, such as ``ms``.
        needs_profile: whether its figures depend on a device.
    """

    name: str
    unit: str
    needs_profile: bool

    def dense_cost(self, layer: LayerWorkload, profile: DeviceProfile | None) -> float:
        """Return the cost of the layer left dense, all its uses included, in ``unit``.

        Raises:
            CostModelError: the cost is not known; never priced at zero instead.
        """
        ...

    def linear_cost(
        self, layer: LayerWorkload, layout: Layout, profile: DeviceProfile | None
    ) -> LinearCost:
        """Return the cost of the layer as a linear function of its kept blocks.

        Raises:
            CostModelError: the layer cannot be executed, or was not measured, in that layout.
        """
        ...

    def rest(self, workload: Workload, profile: DeviceProfile | None) -> float:
        """Return the cost of the whole model that belongs to no layer, in ``unit``."""
        ...


@runtime_checkable
class TellsSource(Protocol):
    """A cost model whose dense figures are measured for some layers and estimated for others."""

    def source(self, layer: LayerWorkload, profile: DeviceProfile | None) -> CostSource:
        """Return where the dense cost of the layer comes from.

        Raises:
            CostModelError: the cost is not known.
        """
        ...
