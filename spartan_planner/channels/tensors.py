"""What is known of the tensors of one forward pass, and which parameters the labels stand for."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from cost_models.channel_group import Role
from spartan_planner.channels.layers import Labelled, settled, varying
from spartan_planner.channels.units import Labels, Units


@dataclass(frozen=True)
class Dimension:
    """The labels of one dimension of one parameter or buffer."""

    tensor: str
    dim: int
    labels: Tensor


@dataclass
class LabelledTensors:
    """Labels by tensor.

    Attributes:
        units: the sets of labels.
        dimensions: of parameters and buffers, in the order of their first use.
        played: labels of parameters, by the part that they played in products.
        heads: labels that stand for attention heads, or share a unit with one.
        joint: layers that change along several dimensions at once.
    """

    model: nn.Module
    units: Units = field(default_factory=Units)
    dimensions: list[Dimension] = field(default_factory=list)
    played: dict[str, list[Labels]] = field(default_factory=dict)
    heads: list[Tensor] = field(default_factory=list)
    joint: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._introduced: dict[str, Labelled] = {}
        self.rename(self.model)

    def rename(self, model: nn.Module) -> None:
        """Go on with a copy of the model, whose parameters have the labels of the first."""
        self.model, self._known = model, WeakTensorKeyDictionary()
        self._named = dict([*model.named_parameters(), *_statistics(model)])
        self._names = {id(tensor): name for name, tensor in self._named.items()}

    def unused(self) -> tuple[str, ...]:
        """Return the weights (of two dimensions or more) that no operation has used."""
        return tuple(
            name
            for name, tensor in self._named.items()
            if tensor.dim() > 1 and name not in self._introduced
        )

    def of(self, tensor: Tensor) -> Labelled:
        """Return what is known of a tensor; a parameter gets its labels at its first use."""
        if tensor in self._known:
            known: Labelled = self._known[tensor]
        else:
            known = self._first_seen(tensor)
            self._known[tensor] = known
        return known

    def note(self, tensor: Tensor, layers: Iterable[Tensor], is_fixed: bool) -> None:
        """Remember the layers of a tensor that an operation wrote."""
        kept = settled(self.units, layers)
        self.joint += [layer for layer in kept if len(varying(layer)) > 1]
        self._known[tensor] = Labelled(tuple(tensor.shape), kept, is_fixed)

    def play(self, labels: Tensor, role: Role) -> None:
        """Note the part that a weight's labels play in a product."""
        self.played.setdefault(role, []).append(self.units.raw_roots(labels).ravel())

    def roles(self) -> list[Role]:
        """Return the part that each of ``dimensions`` played; rows go before columns."""
        produces, consumes = (self._has_played(role) for role in ("output", "input"))
        return [
            "output" if made else "input" if read else "vector"
            for made, read in zip(produces, consumes, strict=True)
        ]

    def _has_played(self, role: str) -> list[bool]:
        has = np.zeros(self.units.num_labels, dtype=bool)
        for labels in self.played.get(role, []):
            has[labels] = True
        return [bool(has[item.labels.numpy()].any()) for item in self.dimensions]

    def _first_seen(self, tensor: Tensor) -> Labelled:
        shape, name = tuple(tensor.shape), self._names.get(id(tensor))
        if name is None:
            return Labelled(shape)
        if name not in self._introduced:
            self._introduced[name] = Labelled(shape, tuple(self._introduce(tensor)), True)
        return self._introduced[name]

    def _introduce(self, tensor: Tensor) -> Iterable[Tensor]:
        for dim, size in enumerate(tensor.shape):
            if size > 1 and tensor.is_floating_point():
                labels = self.units.new(size)
                self.dimensions.append(Dimension(self._names[id(tensor)], dim, labels))
                yield labels.reshape([size if at == dim else 1 for at in range(tensor.dim())])


def _statistics(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Buffers of one number per channel, beside running means; others hold tables and constants."""
    for name, module in model.named_modules():
        if "running_mean" in module._buffers:
            yield from module.named_buffers(name, recurse=False)


def boxes(tensors: LabelledTensors) -> None:
    """Unite until every tensor of the pass stays a box whatever is removed.

    Where labels change along several dimensions at once (channels put into shuffled groups), what
    lies along the shortest of them is united.
    """
    waiting = tensors.joint
    while waiting:
        layers = settled(tensors.units, waiting)
        waiting = [layer for layer in layers if len(varying(layer)) > 1]
        for layer in waiting:
            dim = min(varying(layer), key=layer.shape.__getitem__)
            tensors.units.unite(layer, layer.narrow(dim, 0, 1))
