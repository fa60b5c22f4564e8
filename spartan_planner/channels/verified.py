"""Groups held to their promise: without a unit the model computes what it does with it masked."""

import copy
import math
import random
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cost_models.channel_group import ChannelGroup
from spartan_planner.channels.neutral import mask_channels
from spartan_planner.channels.removal import shrink

ALLOWED_ERROR = 1e-8
"""Of outputs in float64, relative to the largest: rounding of sums in another order is about 1e-13,
while a wrong channel changes the output of a model with random weights by its own size."""


def promise_broken(
    model: nn.Module, groups: Sequence[ChannelGroup], inputs: Sequence[Tensor]
) -> str:
    """Remove random units of these groups; return what is wrong then, or nothing.

    A copy with random weights is compared, so that branches which are closed in an untrained model
    (normalisation weights and layer scales of zero) count as well.
    """
    if not groups:
        return ""
    trial = copy.deepcopy(model).double()
    _randomise(trial)
    wide = [item.double() if item.is_floating_point() else item for item in inputs]
    kept = _random_units(groups)
    mask_channels(trial, groups, kept)
    expected = outputs_of(trial, wide)
    try:
        shrink(trial, groups, kept)
        found = outputs_of(trial, wide)
    except Exception as error:  # whatever a model's code raises
        return f"the smaller model does not run: {' '.join(str(error).split())[:160]}"
    difference = relative_error(expected, found)
    if difference <= ALLOWED_ERROR:
        return ""
    return f"the smaller model computes something else (relative difference {difference:.1e})"


def outputs_of(model: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return all tensors that the model returns."""
    with torch.no_grad():
        return [item for item in tree_leaves(model(*inputs)) if isinstance(item, Tensor)]


def relative_error(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Return the largest difference, relative to the largest number of its output.

    Infinite where shapes differ or a number is not finite.
    """
    worst = 0.0
    for one, other in zip(expected, found, strict=True):
        if one.shape != other.shape or not bool(one.isfinite().all()):
            return float("inf")
        largest = one.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
        worst = max(worst, float((one - other).abs().max() / largest))
    return worst if worst == worst else float("inf")


def _random_units(groups: Sequence[ChannelGroup]) -> dict[str, list[int]]:
    """About half of each group, in no pattern: a different count in every group."""
    chosen = random.Random(0)
    return {
        group.name: sorted(
            chosen.sample(
                range(group.num_units),
                max(1, group.num_units // 2 + chosen.randint(-group.num_units // 4, 0)),
            )
        )
        for group in groups
    }


@torch.no_grad()
def _randomise(model: nn.Module) -> None:
    """Random weights of a scale that keeps activations finite in deep models."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        is_statistic = name.endswith(("running_mean", "running_var"))
        if tensor.is_floating_point() and (is_statistic or isinstance(tensor, nn.Parameter)):
            noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor.copy_(_scaled(name, noise))


def _scaled(name: str, noise: Tensor) -> Tensor:
    if noise.dim() > 1:
        return noise / math.sqrt(max(1, noise[0].numel()))
    if name.endswith(("bias", "running_mean")):
        return noise / 10
    return 1 + noise.clamp(-3, 3) / 5


def keeping_promises(
    model: nn.Module, groups: Sequence[ChannelGroup], inputs: Sequence[Tensor]
) -> tuple[tuple[ChannelGroup, ...], dict[str, str]]:
    """Return the groups whose removal is exact, and what is wrong with the others, by name.

    All are tried together first; where that fails, those of each kind of module by themselves,
    then halves of these.  Where the first and the last of a kind both fail alone, the code of their
    module is to blame, and the whole kind is left out.
    """
    if not promise_broken(model, groups, inputs):
        return tuple(groups), {}
    kept: tuple[ChannelGroup, ...] = ()
    broken: dict[str, str] = {}
    for part in _by_module(model, groups):
        further, problems = _halved(model, part, inputs)
        broken |= problems
        problem = promise_broken(model, kept + further, inputs) if kept and further else ""
        if problem:  # exact by themselves, not together
            broken |= dict.fromkeys((group.name for group in further), problem)
        else:
            kept += further
    order = {group.name: at for at, group in enumerate(groups)}
    return tuple(sorted(kept, key=lambda group: order[group.name])), broken


def _by_module(model: nn.Module, groups: Sequence[ChannelGroup]) -> Iterable[list[ChannelGroup]]:
    """Groups of the same kind whose first producer is part of the same class of module."""
    parts: dict[tuple[str, type], list[ChannelGroup]] = {}
    for group in groups:
        owner = group.slices[0].tensor.rpartition(".")[0]
        holder = model.get_submodule(owner.rpartition(".")[0])
        parts.setdefault((group.kind, type(holder)), []).append(group)
    return parts.values()


def _halved(
    model: nn.Module, groups: Sequence[ChannelGroup], inputs: Sequence[Tensor]
) -> tuple[tuple[ChannelGroup, ...], dict[str, str]]:
    problem = promise_broken(model, groups, inputs)
    if not problem:
        return tuple(groups), {}
    if len(groups) == 1:
        return (), {groups[0].name: problem}
    ends = [promise_broken(model, [group], inputs) for group in (groups[0], groups[-1])]
    if all(ends):
        return (), dict.fromkeys((group.name for group in groups), ends[0])
    middle = len(groups) // 2
    first, broken = _halved(model, groups[:middle], inputs)
    second, more = _halved(model, groups[middle:], inputs)
    together = first + second if first and second else ()
    problem = promise_broken(model, together, inputs) if together else ""
    if problem:
        return first, broken | more | dict.fromkeys((group.name for group in second), problem)
    return first + second, broken | more
