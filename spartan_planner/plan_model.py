"""Planning for a torch model: its workload and the values of its blocks."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from cost_models import DeviceProfile, LayerWorkload, Layout
from spartan_planner.blocks import assign_blocks
from spartan_planner.extraction import extract_workload, inputs_for
from spartan_planner.planning import Budget, Plan, Schedule, make_plan
from spartan_planner.planning.budget import budget_for
from spartan_planner.profiling.treatments import candidate_layouts, is_lowerable


def plan(
    model: nn.Module,
    example_inputs: Sequence[Tensor] | Tensor,
    *,
    budgets: Mapping[str, str] | Sequence[Budget],
    profile: DeviceProfile | None = None,
    layouts: Sequence[Layout | str] = (),
    schedule: Schedule | None = None,
    model_name: str | None = None,
) -> Plan:
    """Plan which blocks of a model to keep, by their values in its present weights.

    Args:
        model: the model; trained weights make better plans.
        example_inputs: positional arguments, batch first; the profile must have been measured at
            these shapes.
        budgets: what the whole model may cost, such as ``{"latency": "40%"}``.
        profile: the device; needed for costs that depend on one.
        layouts: layouts to choose from; by default those that the profile measured.
        schedule: how to train; the paper's by default.
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

    def block_values(layer: LayerWorkload, layout: Layout) -> NDArray[np.float64]:
        values, _ = assign_blocks(parameters[layer.name].detach(), layout)
        return values.double().cpu().numpy()

    if isinstance(budgets, Mapping):
        budgets = [budget_for(cost, amount) for cost, amount in budgets.items()]
    return make_plan(
        workload,
        block_values,
        {
            layer.name: float(parameters[layer.name].detach().double().abs().sum())
            for layer in workload.layers
        },
        budgets,
        lambda layer: _layouts(layer, parameters[layer.name], profile, wanted),
        profile=profile,
        input_shapes=tuple(tuple(item.shape) for item in inputs),
        input_dtypes=tuple(str(item.dtype).removeprefix("torch.") for item in inputs),
        schedule=schedule,
    )


def _layouts(
    layer: LayerWorkload,
    parameter: nn.Parameter,
    profile: DeviceProfile | None,
    wanted: Sequence[Layout],
) -> tuple[Layout, ...]:
    """Layouts of a layer: what the profile measured, or what could be lowered; the wanted ones."""
    if tuple(parameter.shape) != layer.shape.weight_shape:
        # Stored as [in, out] (as in GPT-2), sliced or packed: its rows are not its outputs.
        return ()
    any_wanted = bool(wanted)
    wanted = tuple(layout for layout in wanted if not layout.balanced_step or is_lowerable(layer))
    if profile is None:
        return wanted if any_wanted else candidate_layouts(layer.shape)
    timing = profile.timing(layer.shape)
    measured = [Layout.parse(sparse.layout) for sparse in timing.sparse] if timing else []
    return tuple(layout for layout in measured if not any_wanted or layout in wanted)
