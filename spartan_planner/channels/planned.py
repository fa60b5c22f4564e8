"""The channel groups that a plan shortens, in the model that it was made for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cost_models.channel_group import ChannelGroup
from spartan_planner.channels.groups import channel_groups
from spartan_planner.errors import PlanError
from spartan_planner.planning import Plan


def planned_groups(
    model: nn.Module, plan: Plan, groups: Sequence[ChannelGroup] | None = None
) -> tuple[ChannelGroup, ...]:
    """Return the groups that lose units, in the plan's order; none where no channels go.

    Args:
        model: the model that the plan was made for, nothing removed; stays as it is.
        plan: the plan.
        groups: all groups of the model; found from one forward pass at the plan's shapes if not
            given.

    Raises:
        PlanError: the plan's groups are not those of the model, or it tells no shapes.
        ModelError: the model does not run on inputs of those shapes.
    """
    if not plan.kept_units:
        return ()
    if groups is None:
        with _in_its_own_precision(model):
            groups = channel_groups(model, inputs_as_planned(plan))
    by_name = {group.name: group for group in groups}
    for item in plan.groups:
        found = by_name.get(item.name)
        if item.is_shortened and (found is None or found.num_units != item.num_units):
            raise PlanError(
                f"the plan keeps {item.num_kept_units} of {item.num_units} units of channel group "
                f"{item.name}, this model has {found.num_units if found else 'no such group'}; "
                "plan again for this model"
            )
    return tuple(by_name[name] for name in plan.kept_units)


@contextmanager
def _in_its_own_precision(model: nn.Module) -> Iterator[None]:
    """Take off the mixed precision that Accelerate puts around ``forward``.

    Groups are held to be exact in float64, which no autocast forward pass is.
    """
    wrapped = model.__dict__.get("forward")
    if "_original_forward" not in model.__dict__ or wrapped is None:
        yield
        return
    vars(model)["forward"] = model._original_forward
    try:
        yield
    finally:
        vars(model)["forward"] = wrapped


def inputs_as_planned(plan: Plan) -> tuple[Tensor, ...]:
    """Return inputs of the shapes and types that a plan was made for: noise, or ones for ids.

    Raises:
        PlanError: the plan tells no shapes.
    """
    if not plan.input_shapes:
        raise PlanError(
            "the plan does not say at which shapes of inputs it was made, so that its channel "
            "groups cannot be found again; plan with the model instead of its workload"
        )
    generator = torch.Generator().manual_seed(0)
    dtypes = plan.input_dtypes or ("float32",) * len(plan.input_shapes)
    found = []
    for shape, name in zip(plan.input_shapes, dtypes, strict=True):
        dtype: torch.dtype = getattr(torch, name)
        noise = torch.randn(shape, generator=generator)
        found.append(noise.to(dtype) if dtype.is_floating_point else torch.ones(shape, dtype=dtype))
    return tuple(found)
