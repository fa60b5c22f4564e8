"""Cost in milliseconds, from what a profile measured on the device."""

from cost_models.device_profile import DeviceProfile, LayerTiming
from cost_models.errors import CostModelError
from cost_models.layout import Layout
from cost_models.linear_cost import LinearCost
from cost_models.workload import LayerShape, LayerWorkload, Workload


class LatencyCost:
    """Time of one forward pass at the batch size of the workload, as measured."""

    name = "latency"
    unit = "ms"
    needs_profile = True

    def dense_cost(self, layer: LayerWorkload, profile: DeviceProfile | None) -> float:
        """Measured time of the dense form, summed over the uses of the weight."""
        known = _require(profile)
        return sum(_timing(layer, shape, known).dense_ms for shape in layer.uses)

    def linear_cost(
        self, layer: LayerWorkload, layout: Layout, profile: DeviceProfile | None
    ) -> LinearCost:
        """Fitted time of the lowered form, summed over the uses of the weight."""
        known = _require(profile)
        uses = [_sparse_cost(layer, shape, layout, known) for shape in layer.uses]
        return LinearCost(
            dense=sum(use.dense for use in uses),
            fixed=sum(use.fixed for use in uses),
            per_block=sum(use.per_block for use in uses),
            unit=self.unit,
            source="measured",
        )

    def rest(self, workload: Workload, profile: DeviceProfile | None) -> float:  # noqa: ARG002
        """Overhead of one run that no layer accounts for."""
        return _require(profile).run_overhead_ms


def _require(profile: DeviceProfile | None) -> DeviceProfile:
    if profile is None:
        raise CostModelError(
            "latency depends on the device; give a profile made by 'spartan-planner profile'"
        )
    return profile


def _timing(layer: LayerWorkload, shape: LayerShape, profile: DeviceProfile) -> LayerTiming:
    timing = profile.timing(shape)
    if timing is None:
        raise CostModelError(
            f"profile {profile.name!r} has no measurement for layer {layer.name} "
            f"({shape.label()}, input {shape.input_shape}){_nearest(shape, profile)}; "
            "profile the workload of this model on the device, at the same input shape"
        )
    return timing


def _nearest(shape: LayerShape, profile: DeviceProfile) -> str:
    """Say at which other inputs the same weight was measured: most often the batch differs."""
    others = {
        str(timing.shape.input_shape)
        for timing in profile.layers
        if timing.shape.weight_shape == shape.weight_shape
    }
    return f", only at input {' and '.join(sorted(others))}" if others else ""


def _sparse_cost(
    layer: LayerWorkload, shape: LayerShape, layout: Layout, profile: DeviceProfile
) -> LinearCost:
    timing = _timing(layer, shape, profile)
    for sparse in timing.sparse:
        if sparse.layout == str(layout):
            return timing.linear_cost(sparse)
    measured = ", ".join(sparse.layout for sparse in timing.sparse) or "no layout"
    raise CostModelError(
        f"the profile has no time for layer {layer.name} in layout {layout}; "
        f"for this shape it measured {measured}"
    )
