"""Cost in parameters: how many numbers the model holds."""

from cost_models.device_profile import DeviceProfile
from cost_models.layout import Layout
from cost_models.linear_cost import LinearCost
from cost_models.workload import LayerWorkload, Workload


class ParamsCost:
    """One parameter costs one; a block costs the elements that it contains."""

    name = "params"
    unit = "parameters"
    needs_profile = False

    def dense_cost(self, layer: LayerWorkload, profile: DeviceProfile | None) -> float:  # noqa: ARG002
        """Elements of the weight."""
        return float(layer.num_weights)

    def linear_cost(
        self, layer: LayerWorkload, layout: Layout, profile: DeviceProfile | None
    ) -> LinearCost:
        """Elements per block; nothing fixed."""
        per_block = layout.num_elements_per_block(layer.shape.weight_shape)
        return LinearCost(self.dense_cost(layer, profile), 0.0, float(per_block), self.unit)

    def rest(self, workload: Workload, profile: DeviceProfile | None) -> float:  # noqa: ARG002
        """Parameters outside all layers: biases, normalisation, position tables."""
        return float(workload.num_parameters - sum(layer.num_weights for layer in workload.layers))
