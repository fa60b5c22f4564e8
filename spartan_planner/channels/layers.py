"""Labels of the elements of a tensor.

A *layer* is a tensor of labels that broadcasts to the tensor it describes and has size 1 along
every dimension along which its labels do not change.  An activation has one layer as a rule (its
channels); a weight has one per dimension (its rows, its columns).  An element goes when any of its
labels goes, so after a removal every tensor is still a box if no layer changes along two
dimensions at once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from spartan_planner.channels.units import NO_UNIT, Units


@dataclass(frozen=True)
class Labelled:
    """What is known of a tensor.

    Attributes:
        shape: of the tensor.
        layers: its labels; empty where no unit can be removed from it.
        is_fixed: whether no input of the model has a part in it.
    """

    shape: tuple[int, ...]
    layers: tuple[Tensor, ...] = ()
    is_fixed: bool = False

    def reshaped(self, shape: Sequence[int]) -> "Labelled":
        """Return the same with dimensions of size 1 put in or taken out."""
        layers = tuple(_with_dimensions(layer, self.shape, shape) for layer in self.layers)
        return Labelled(tuple(shape), layers, self.is_fixed)


def _with_dimensions(layer: Tensor, shape: Sequence[int], wanted: Sequence[int]) -> Tensor:
    sizes = [layer.shape[dim] for dim, size in enumerate(shape) if size > 1]
    left = iter(sizes)
    return layer.reshape([next(left) if size > 1 else 1 for size in wanted])


def varying(layer: Tensor) -> tuple[int, ...]:
    """Return the dimensions along which a settled layer changes."""
    return tuple(dim for dim, size in enumerate(layer.shape) if size > 1)


def settled(units: Units, layers: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Return the layers as they are by now, without those that no longer change anywhere."""
    fresh = (_narrowed(units.roots(layer)) for layer in layers)
    return tuple(layer for layer in fresh if varying(layer))


def _narrowed(layer: Tensor) -> Tensor:
    for dim, size in enumerate(layer.shape):
        first = layer.narrow(dim, 0, 1) if size else layer
        if size > 1 and bool((layer == first).all()):
            layer = first
    return layer.clone()


def held(units: Units, layer: Tensor, dims: Iterable[int], reason: str) -> tuple[Tensor, ...]:
    """Keep the size of these dimensions: what lies along them goes together or not at all.

    Returns:
        The layer as it is then, or nothing where that leaves one unit, which is then kept.
    """
    for dim in dims:
        if layer.shape[dim] > 1:
            units.unite(layer, layer.narrow(dim, 0, 1))
    after = settled(units, [layer])
    if not after:
        units.keep(layer.reshape(-1)[:1], reason)
    return after


def held_all(
    units: Units, layers: Iterable[Tensor], dims: Sequence[int], reason: str
) -> tuple[Tensor, ...]:
    """Apply :func:`held` to each layer that changes along one of ``dims``."""
    result: list[Tensor] = []
    for layer in settled(units, layers):
        touched = [dim for dim in dims if layer.shape[dim] > 1]
        result += held(units, layer, touched, reason) if touched else (layer,)
    return tuple(result)


def merged(units: Units, operands: Sequence[Labelled], reason: str) -> tuple[Tensor, ...]:
    """Return the layers of an elementwise operation's output: labels at one place are united.

    A dimension that one operand has without labels keeps its size.
    """
    num_dims = max((len(item.shape) for item in operands), default=0)
    aligned = [_aligned(units, item, num_dims) for item in operands]
    layers: list[Tensor] = []
    for item in aligned:
        for layer in item.layers:
            layers = _joined(units, layers, layer)
    result: list[Tensor] = []
    for layer in layers:
        stiff = [dim for dim in varying(layer) if any(_is_bare(item, dim) for item in aligned)]
        result += held(units, layer, stiff, reason) if stiff else (layer,)
    return settled(units, result)


def _aligned(units: Units, item: Labelled, num_dims: int) -> Labelled:
    missing = (1,) * (num_dims - len(item.shape))
    layers = tuple(
        layer.reshape(missing + tuple(layer.shape)) for layer in settled(units, item.layers)
    )
    return Labelled(missing + item.shape, layers, item.is_fixed)


def _joined(units: Units, layers: list[Tensor], new: Tensor) -> list[Tensor]:
    meets = [bool(set(varying(layer)) & set(varying(new))) for layer in layers]
    for layer, meet in zip(layers, meets, strict=True):
        if meet:
            units.unite(layer, new)
            new = new.expand([max(sizes) for sizes in zip(new.shape, layer.shape, strict=True)])
    apart = [layer for layer, meet in zip(layers, meets, strict=True) if not meet]
    return [*apart, *settled(units, [new])]


def _is_bare(item: Labelled, dim: int) -> bool:
    return item.shape[dim] > 1 and all(layer.shape[dim] == 1 for layer in item.layers)


def labels_along(units: Units, item: Labelled, dim: int) -> Tensor | None:
    """Return the labels along one dimension, of the layer that changes along it alone."""
    for layer in settled(units, item.layers):
        if varying(layer) == (dim,):
            return layer.reshape(-1)
    return None


def is_free(units: Units, labels: Tensor) -> bool:
    """Whether any of these labels can go."""
    return bool((units.roots(labels) != NO_UNIT).any())
