"""Planning for a torch model: its workload and the values of its blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cost_models import DeviceProfile, LayerWorkload, Layout
from cost_models.roofline import skips_zeros
from spartan_planner.errors import PlanError
from spartan_planner.extraction import extract_workload, inputs_for
from spartan_planner.planning import Bound, Budget, LayerValues, Plan, Policy, Schedule, make_plan
from spartan_planner.planning.budget import budget_for
from spartan_planner.planning.weights import values_of_array
from spartan_planner.profiling.treatments import candidate_layouts, is_lowerable


def plan(
    model: nn.Module,
    example_inputs: Sequence[Tensor] | Tensor,
    *,
    budgets: Mapping[str, str] | Sequence[Budget],
    profile: DeviceProfile | None = None,
    layouts: Sequence[Layout | str] = (),
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
            that it did not measure those that can be lowered.
        schedule: how to train; the paper's by default.
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
    parameters = dict(model.named_parameters())
    wanted = tuple(Layout.parse(item) if isinstance(item, str) else item for item in layouts)

    if isinstance(budgets, Mapping):
        budgets = [budget_for(cost, amount) for cost, amount in budgets.items()]
    return make_plan(
        workload,
        TorchWeights(parameters),
        budgets,
        lambda layer: _layouts(layer, parameters[layer.name], profile, wanted),
        profile=profile,
        bounds=bounds,
        policy=policy,
        input_shapes=tuple(tuple(item.shape) for item in inputs),
        input_dtypes=tuple(str(item.dtype).removeprefix("torch.") for item in inputs),
        schedule=schedule,
    )


@dataclass(frozen=True)
class TorchWeights:
    """Weights of a torch model, by parameter name."""

    parameters: Mapping[str, nn.Parameter]

    def values(self, layer: LayerWorkload, layouts: Sequence[Layout]) -> LayerValues:
        """Return what a layer is worth in each layout.

        Raises:
            PlanError: its weights are not finite, or on the meta device.
        """
        weight = self.parameters[layer.name].detach()
        if weight.is_meta:
            raise PlanError(
                f"the weights of layer {layer.name} are on the meta device and have no values; "
                "give a checkpoint"
            )
        wide = weight.float() if weight.dtype in (torch.bfloat16, torch.float16) else weight
        return values_of_array(layer, wide.cpu().numpy(), layouts)


def _layouts(
    layer: LayerWorkload,
    parameter: nn.Parameter,
    profile: DeviceProfile | None,
    wanted: Sequence[Layout],
) -> tuple[Layout, ...]:
    """Layouts of a layer: the wanted ones, what the profile measured, or what could be lowered."""
    if tuple(parameter.shape) != layer.shape.weight_shape:
        # Stored as [in, out] (as in GPT-2), sliced or packed: its rows are not its outputs.
        return ()
    if wanted:
        wanted = tuple(item for item in wanted if not item.balanced_step or is_lowerable(layer))
        return wanted if profile is None else _executed(layer, profile, wanted)
    timing = profile.timing(layer.shape) if profile else None
    measured = tuple(Layout.parse(sparse.layout) for sparse in timing.sparse) if timing else ()
    return measured or candidate_layouts(layer.shape)


def _executed(
    layer: LayerWorkload, profile: DeviceProfile, wanted: Sequence[Layout]
) -> tuple[Layout, ...]:
    """The wanted layouts that save time on a device: measured there, or with a lowered form."""
    timing = profile.timing(layer.shape)
    measured = {sparse.layout for sparse in timing.sparse} if timing else set()
    return tuple(
        layout for layout in wanted if str(layout) in measured or skips_zeros(layer.shape, layout)
    )
