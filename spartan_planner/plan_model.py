"""Planning for a torch model: its workload and the values of its blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cost_models import DeviceProfile, LayerWorkload, Layout, Workload
from spartan_planner.errors import PlanError
from spartan_planner.extraction import extract_workload, inputs_for
from spartan_planner.planning import (
    Bound,
    Budget,
    LayerValues,
    Plan,
    Policy,
    Schedule,
    plan_workload,
)
from spartan_planner.planning.request import read_layouts
from spartan_planner.planning.weights import ReadRows, values_of_rows, widened


def plan(
    model: nn.Module,
    example_inputs: Sequence[Tensor] | Tensor,
    *,
    budgets: Mapping[str, str] | Sequence[Budget],
    profile: DeviceProfile | None = None,
    layouts: Sequence[Layout | str] = (),
    channel_multiple: int | None = None,
    schedule: Schedule | None = None,
    bounds: Sequence[Bound] = (),
    policy: Policy = Policy.COST,
    model_name: str | None = None,
) -> Plan:
    """Plan which blocks of a model to keep, by their values in its present weights.

    Args:
        model: the model; trained weights make better plans.
        example_inputs: positional arguments, batch first; layers that the profile did not measure
            at these shapes are estimated, and the plan's ``warnings`` say so.
        budgets: what the whole model may cost, such as ``{"latency": "40%"}``.
        profile: the device; needed for costs that depend on one.
        layouts: layouts to choose from; by default those that the profile measured, and for layers
            that it did not measure those that can be lowered; without a profile, ``tile:64x1`` for
            linear layers.  ``channel`` and ``head`` remove channels and heads; ``auto`` stands for
            both and the default ones.
        channel_multiple: of channels that a group may keep; by default the device's vector step.
        schedule: how training comes to the budget; :class:`Schedule` says its defaults.
        bounds: what may become of which layers.
        policy: how kept weights are spread over the layers.
        model_name: what to call the model; its class by default.

    Raises:
        ModelError: the model does not run on the inputs.
        CostModelError: a layer cannot be priced.
        InfeasibleBudgetError: no plan meets the budget.
    """
    inputs = inputs_for(model, example_inputs)
    workload = extract_workload(model, inputs, model_name or type(model).__name__)
    if read_layouts(layouts, channel_multiple)[1] is not None:
        workload = with_channel_groups(workload, model, inputs)
    parameters = dict(model.named_parameters())
    shapes, dtypes = described(inputs)
    return plan_workload(
        workload,
        TorchWeights(parameters),
        budgets,
        profile=profile,
        layouts=layouts,
        channel_multiple=channel_multiple,
        bounds=bounds,
        policy=policy,
        schedule=schedule,
        input_shapes=shapes,
        input_dtypes=dtypes,
    )


def with_channel_groups(workload: Workload, model: nn.Module, inputs: Sequence[Tensor]) -> Workload:
    """Return a model's workload with the groups of channels that can be removed from it.

    Raises:
        ModelError: the model does not run on the inputs, or its weights are not there.
    """
    from spartan_planner.channels.groups import channel_groups

    return replace(workload, channel_groups=channel_groups(model, inputs))


def described(inputs: Sequence[Tensor]) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
    """Return shapes and element types of example inputs, as a plan holds them."""
    return (
        tuple(tuple(item.shape) for item in inputs),
        tuple(str(item.dtype).removeprefix("torch.") for item in inputs),
    )


@dataclass(frozen=True)
class TorchWeights:
    """Weights of a torch model, by parameter name."""

    parameters: Mapping[str, nn.Parameter]

    def stored_shape(self, layer: LayerWorkload) -> tuple[int, ...]:
        """Return the shape of a layer's parameter.

        Raises:
            PlanError: the model has no such parameter.
        """
        return tuple(self._parameter(layer.name).shape)

    def values(self, layer: LayerWorkload, layouts: Sequence[Layout]) -> LayerValues:
        """Return what a layer is worth in each layout.

        Raises:
            PlanError: its weights are not finite, or on the meta device.
        """
        return values_of_rows(layer, self.stored_shape(layer), self.rows(layer), layouts)

    def rows(self, layer: LayerWorkload) -> ReadRows:
        """Return what reads rows of a layer's parameter.

        Raises:
            PlanError: the model has no such parameter, or it is on the meta device.
        """
        weight = self._parameter(layer.name).detach()
        if weight.is_meta:
            raise PlanError(
                f"the weights of layer {layer.name} are on the meta device and have no values; "
                "give a checkpoint"
            )
        return lambda start, stop: _rows(weight, start, stop)

    def _parameter(self, name: str) -> nn.Parameter:
        if name not in self.parameters:
            raise PlanError(f"the model has no parameter {name!r}; give the model of this workload")
        return self.parameters[name]


def _rows(weight: Tensor, start: int, stop: int) -> NDArray[np.floating]:
    rows = weight[start:stop].cpu()
    return widened((rows if rows.dtype is torch.float64 else rows.float()).numpy())
