"""Channels and heads under a plan while a model trains: blocks that span tensors (DESIGN 4.9).

With ``theta`` the latent weights, ``m`` and ``h`` the masks of units and ``t`` the tiles' factor
(1 where a weight has none), the forward pass of ``spartan`` and ``dual_averaging`` sees

    w = theta t m_u h_u    where unit u is read,         theta t    everywhere else

and the gradients for the optimizer are, with v_u the mean of ``|theta|`` over all rows and columns
of unit u and ``g_u = sum G theta t`` over the places where it is read,

    dL/dtheta = G m t + sign(theta) (dL/dv_tile + sum_u dL/dv_u)

A unit with ``h = 0`` is read by nobody: the model computes what the smaller one does.  Once masks
stand still, and in ``magnitude`` and ``fixed`` at once, every slice of it is zero: rows, columns,
biases and the normalisation, whose output is zero then.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cost_models.channel_group import ChannelGroup
from spartan_planner.channels.neutral import mask_channels
from spartan_planner.errors import TrainingError
from spartan_planner.planning import Plan, Schedule
from spartan_planner.training.channel_competition import (
    hold,
    keep_living,
    select,
    soften,
    value_gradient,
)
from spartan_planner.training.competition import Competition
from spartan_planner.training.methods import Fixed, Method
from spartan_planner.training.planned_group import PlannedGroup, common_factor
from spartan_planner.training.planned_weight import PlannedWeight
from spartan_planner.training.reduced_weight import ReducedWeight
from spartan_planner.training.schedules import SchedulePoint


class ChannelTraining:
    """The channel groups of a plan, beside the competition of its tiles.

    Args:
        groups: those that lose units.
        plan: the plan.
        parameters: of the model.
        schedule: how beta is found.
        method: how to prune.
    """

    def __init__(
        self,
        groups: Sequence[ChannelGroup],
        plan: Plan,
        parameters: Mapping[str, nn.Parameter],
        schedule: Schedule,
        method: Method,
    ) -> None:
        layers = frozenset(layer.name for layer in plan.layers)
        self.groups = [
            PlannedGroup.of(group, plan.kept_units[group.name], parameters, layers)
            for group in groups
        ]
        self.schedule, self.method = schedule, method
        pairs = [(group, place) for group in self.groups for place in group.places]
        self.parameters = {place.tensor: parameters[place.tensor] for _, place in pairs}
        self._pairs = {
            name: [pair for pair in pairs if pair[1].tensor == name] for name in self.parameters
        }
        self.tiled = {
            layer.name: ReducedWeight(layer.name, parameters[layer.name], self._pairs[layer.name])
            for layer in plan.sparse_layers
            if layer.name in self._pairs
        }
        self._readers = {
            name: [(g, place) for g in self.groups for place in g.readers if place.tensor == name]
            for name in self.parameters
        }
        self.latents: dict[str, Tensor] = {}
        self.masks: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}

    def dense(self, name: str) -> Tensor:
        """Return the latent weight of a name, wherever it is."""
        return self.latents.get(name, self.parameters[name].detach())

    @property
    def rewritten(self) -> list[str]:
        """The parameters that hold something else than their latent weight while masks move."""
        return [name for name in self.parameters if self._readers[name] or name in self.tiled]

    def prune(self, competition: Competition, point: SchedulePoint) -> None:
        """Put sparse weights into the parameters, which hold what the optimizer made of them.

        Args:
            competition: of the tiles; of layers that lose channels its weights are the smaller
                ones of ``tiled``.
            point: of the schedule.
        """
        if isinstance(self.method, Fixed):
            self._hold_given(self.method, competition, point)
        elif self.method.revives:
            self._prune_for_now(competition, point)
        else:
            self._prune_for_good(competition, point)
        self._versions = {name: item._version for name, item in self.parameters.items()}

    def _prune_for_now(self, competition: Competition, point: SchedulePoint) -> None:
        """Mask units where they are read; all of their slices once masks stand still."""
        for name in self.rewritten:
            held = self.latents.get(name)
            whole = self.parameters[name].detach()
            self.latents[name] = whole.clone() if held is None else held.copy_(whole)
        for group in self.groups:
            select(group, self.dense, point)
            if self.method.softens:
                soften(group, self.dense, self.schedule, point)
        self._prune_tiles(competition, point, self.method)
        for name in self.rewritten:
            self.parameters[name].detach().copy_(self._sparse(name))
        if point.is_frozen:
            self._freeze(competition)

    def _prune_for_good(self, competition: Competition, point: SchedulePoint) -> None:
        self.apply_masks()
        for group in self.groups:
            select(group, self.dense, point)
            keep_living(group, self.dense)
        self._prune_tiles(competition, point, self.method)
        self._freeze(competition)

    def _hold_given(self, method: Fixed, competition: Competition, point: SchedulePoint) -> None:
        """Hold the units that given masks, or the weights as they are, still read."""
        given = {name: self._given_mask(method, name) for name in self.rewritten}
        for group in self.groups:
            alive = torch.stack(
                [
                    place.sums(given[place.tensor].float().sum(place.others(given[place.tensor])))
                    for place in group.readers
                ]
            ).sum(0)
            _require_room(group, int(alive.count_nonzero()))
            hold(group, alive > 0, self.dense)
        smaller = {name: item.taken(given[name]) for name, item in self.tiled.items()}
        tiles = Fixed({**(method.masks or _nonzeros(competition.weights)), **smaller})
        self._prune_tiles(competition, point, tiles)
        self._freeze(competition)

    def _given_mask(self, method: Fixed, name: str) -> Tensor:
        parameter = self.parameters[name].detach()
        mask = (method.masks or {}).get(name, parameter)
        if mask.shape != parameter.shape:
            raise TrainingError(
                f"layer {name} needs a mask of shape {tuple(parameter.shape)}, one of shape "
                f"{tuple(mask.shape)} was given; give masks of whole weights, channels included"
            )
        return mask.to(parameter.device) != 0

    def _prune_tiles(self, competition: Competition, point: SchedulePoint, method: Method) -> None:
        """Let tiles compete in what channels leave, and put what they leave back."""
        for weight in self._tiled_weights(competition):
            weight.local.copy_(self.tiled[weight.name].taken(self.dense(weight.name)))
            # Another choice of units moves the tiles: earlier masks are in the whole weight.
            weight.kept = None
        if competition.weights:
            method.prune(competition, point)
        if not self.method.revives:
            for weight in self._tiled_weights(competition):
                self.tiled[weight.name].put(weight.local, self.parameters[weight.name].detach())

    def _tiled_weights(self, competition: Competition) -> Iterator[PlannedWeight]:
        return (weight for weight in competition.weights if weight.name in self.tiled)

    def _sparse(self, name: str) -> Tensor:
        """Return ``theta t m h``, what the forward pass sees of a weight."""
        whole = self.latents[name].clone()
        if name in self.tiled:
            self.tiled[name].put(self.tiled[name].parameter.detach(), whole)
        return whole.mul_(common_factor(whole, self._readers[name], is_soft=False))

    def _freeze(self, competition: Competition) -> None:
        """Set every slice of removed units to zero, and remember what stays zero from now on."""
        tiles = {weight.name: weight for weight in self._tiled_weights(competition)}
        for name, parameter in self.parameters.items():
            mask = self.masks.get(name, torch.ones_like(parameter))
            for group, place in self._pairs[name]:
                assert group.hard is not None
                mask.mul_(place.factors(group.hard, mask))
            kept = tiles[name].kept if name in tiles else None
            if kept is not None:
                self.tiled[name].put(self.tiled[name].taken(mask) * kept, mask)
            self.masks[name] = mask
        self.apply_masks()
        self.latents = {}
        for group in self.groups:
            group.soft = None

    @torch.no_grad()
    def apply_masks(self) -> None:
        """Set to zero what was pruned for good."""
        for name, mask in self.masks.items():
            self.parameters[name].detach().mul_(mask)

    def mask_gradients(self) -> None:
        """Set the gradients of what was pruned for good to zero."""
        for name, mask in self.masks.items():
            gradient = self.parameters[name].grad
            if gradient is not None:
                gradient.mul_(mask)

    def turn_gradients(self, competition: Competition) -> None:
        """Turn G = dL/dw into the gradient for the optimizer, and give it its weights."""
        if not self.method.revives:
            self.mask_gradients()
            if competition.weights:
                self.method.turn_gradients(competition)
            return
        slopes = self._mask_gradients(competition) if self.method.softens else []
        if competition.weights:
            self.method.turn_gradients(competition)
        if self.method.softens:
            self._put_back_gradients(competition)
            self._add_value_gradients(slopes)
        self.put_latents()

    def _mask_gradients(self, competition: Competition) -> list[Tensor]:
        """Return ``g_u`` of each group; make G into ``G m`` and hand the tiles their part."""
        tiles = {weight.name: weight for weight in self._tiled_weights(competition)}
        slopes = [torch.zeros_like(group.soft) for group in self.groups if group.soft is not None]
        by_group = dict(zip([group.name for group in self.groups], slopes, strict=True))
        for name in self.rewritten:
            gradient = self.parameters[name].grad
            if gradient is None:
                continue
            product = gradient * self.latents[name]
            soft = tiles[name].soft if name in tiles else None
            if soft is not None:
                factor = tiles[name].expanded(soft)
                self.tiled[name].put(self.tiled[name].taken(product) * factor, product)
            for group, place in self._readers[name]:
                others = [pair for pair in self._readers[name] if pair[1].dim != place.dim]
                scaled = product * common_factor(product, others, is_soft=True)
                by_group[group.name] += place.sums(scaled.sum(place.others(scaled)))
            gradient.mul_(common_factor(gradient, self._readers[name], is_soft=True))
            if name in tiles:
                self.tiled[name].parameter.grad = self.tiled[name].taken(gradient)
        return slopes

    def _put_back_gradients(self, competition: Competition) -> None:
        for weight in self._tiled_weights(competition):
            gradient, part = self.parameters[weight.name].grad, weight.parameter.grad
            if gradient is not None and part is not None:
                self.tiled[weight.name].put(part, gradient)
            weight.parameter.grad = None

    def _add_value_gradients(self, slopes: Sequence[Tensor]) -> None:
        """Add ``sign(theta) dL/dv`` to every row and column of a unit that has a value."""
        for group, slope in zip(self.groups, slopes, strict=True):
            found = value_gradient(group, slope)
            for place in group.valued:
                gradient = self.parameters[place.tensor].grad
                if gradient is not None:
                    signs = self.dense(place.tensor).sign()
                    gradient.add_(signs * place.factors(found, gradient, 0.0))

    def put_latents(self) -> None:
        """Put the latent weights back into the parameters."""
        for name, latent in self.latents.items():
            self.parameters[name].detach().copy_(latent)

    def require_untouched(self) -> None:
        """Refuse to lose what somebody else wrote to the parameters between steps.

        Raises:
            TrainingError: a parameter was changed.
        """
        for name in self.latents:
            found = self.parameters[name].detach()
            if self._versions.get(name) == found._version:
                continue
            if not bool(((found == 0) | (found == self._sparse(name))).all()):
                raise TrainingError(
                    f"parameter {name!r} was changed between two steps of the optimizer, which "
                    "would be lost; load weights before the sparsifier is made, or load its own "
                    "state after them"
                )

    def neutralise(self, model: nn.Module) -> None:
        """Let removed units be neutral in the model, statistics of normalisations included."""
        mask_channels(model, [g.group for g in self.groups], {g.name: g.kept for g in self.groups})

    def apply_to(self, parameters: Mapping[str, Tensor]) -> None:
        """Set to zero in other parameters of these names what is pruned here."""
        for name in self.masks or self.rewritten:
            mask = self.masks.get(name, self.parameters[name].detach() != 0)
            parameters[name].mul_(mask)

    def num_kept_units(self) -> dict[str, int]:
        """Return the units that each group keeps now."""
        return {group.name: len(group.kept) for group in self.groups}

    def shares(self, layers: Sequence[str]) -> dict[str, float]:
        """Return, of each of these weights that loses channels, the share that they leave now."""
        kept = self.num_kept_units()
        found = {}
        for name in layers:
            shape, left = self.parameters[name].shape, 1.0
            for dim in {place.dim for _, place in self._pairs[name]}:
                gone = sum(
                    place.num_elements * (1 - kept[group.name] / group.num_units)
                    for group, place in self._pairs[name]
                    if place.dim == dim
                )
                left *= 1 - gone / shape[dim]
            found[name] = left
        return found

    def numbers(self) -> dict[str, dict[str, Any]]:
        """Return what a state holds of each group beside tensors."""
        return {
            group.name: {"price": group.price, "spread": group.spread, "beta": group.beta}
            for group in self.groups
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return what a state holds, by name; not copies."""
        by_group = {
            f"channels.{kind}.{group.name}": getattr(group, kind)
            for group in self.groups
            for kind in _GROUP_TENSORS
        }
        held = {
            **by_group,
            **{f"channels.latent.{name}": tensor for name, tensor in self.latents.items()},
            **{f"channels.mask.{name}": tensor for name, tensor in self.masks.items()},
            **{
                f"channels.reduced.{name}": item.parameter.detach()
                for name, item in self.tiled.items()
            },
        }
        return {name: tensor for name, tensor in held.items() if tensor is not None}

    def restore(self, numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Bring the groups to a saved state, whose tensors are copied.

        Raises:
            TrainingError: the state is of another model, or the weights are of another moment.
        """
        for group in self.groups:
            for kind in _GROUP_TENSORS:
                shape = (group.num_units,)
                setattr(group, kind, self._saved(tensors, f"{kind}.{group.name}", shape))
            for key, value in numbers.get(group.name, {}).items():
                setattr(group, key, value)
        self.latents = self._saved_all(tensors, "latent")
        self.masks = self._saved_all(tensors, "mask")
        for name, item in self.tiled.items():
            found = tensors.get(f"channels.reduced.{name}")
            if found is not None and found.shape == item.parameter.shape:
                item.parameter.detach().copy_(found)
        self._versions = {}
        self.require_untouched()
        self._versions = {name: item._version for name, item in self.parameters.items()}

    def _saved_all(self, tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
        found = {}
        for name, parameter in self.parameters.items():
            tensor = self._saved(tensors, f"{kind}.{name}", tuple(parameter.shape))
            if tensor is not None:
                found[name] = torch.empty_like(parameter).copy_(tensor)
        return found

    def _saved(
        self, tensors: Mapping[str, Tensor], key: str, shape: tuple[int, ...]
    ) -> Tensor | None:
        tensor = tensors.get(f"channels.{key}")
        if tensor is None:
            return None
        if tuple(tensor.shape) != shape:
            raise TrainingError(
                f"the saved state holds {key} of shape {tuple(tensor.shape)} where this model has "
                f"{shape}; it is of another model"
            )
        device = next(iter(self.parameters.values())).device
        return tensor.detach().to(device).clone()


_GROUP_TENSORS = ("soft", "hard", "planned")


def _nonzeros(weights: Sequence[PlannedWeight]) -> dict[str, Tensor]:
    return {weight.name: weight.parameter.detach() != 0 for weight in weights}


def _require_room(group: PlannedGroup, num_alive: int) -> None:
    if num_alive > group.num_kept:
        raise TrainingError(
            f"the fixed masks keep {num_alive} units of channel group {group.name}, "
            f"{group.num_kept} are allowed; prune the weights in one shot first, or give masks "
            "within the plan's budgets"
        )
