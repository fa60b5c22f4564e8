"""Which initializer of an exported graph holds which parameter of the model."""

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[np.generic]

_NUM_PROBES = 8
"""Elements compared before whole tensors are: almost all pairs of different weights fail there."""


def initializer_names(model: ir.Model, parameters: Mapping[str, Array]) -> dict[str, str]:
    """Return the initializer that holds each parameter, where there is one.

    An exporter keeps a parameter's name, also where it folds a batch normalisation into the
    values, or transposes the weight and invents a name.  So a parameter belongs to the initializer
    of its name and shape; else to one of equal values, as they are or transposed.  Of several
    with equal values each is given to one parameter, in order, before any is given to a second.

    Args:
        model: the exported graph.
        parameters: the model's parameters by name.

    Returns:
        Parameter name to initializer name; a parameter that no initializer holds is left out.
    """
    found = _by_name(model, parameters)
    unnamed = [name for name in parameters if name not in found]
    pool = _Pool(model, {parameters[name].size for name in unnamed}, set(found.values()))
    for name in unnamed:
        held_by = pool.take(parameters[name])
        if held_by is not None:
            found[name] = held_by
    return {name: found[name] for name in parameters if name in found}


def _by_name(model: ir.Model, parameters: Mapping[str, Array]) -> dict[str, str]:
    initializers = model.graph.initializers
    return {
        name: name
        for name, array in parameters.items()
        if name in initializers and _shape(initializers[name]) == array.shape
    }


def _shape(value: ir.Value) -> tuple[int, ...] | None:
    return None if value.const_value is None else tuple(value.const_value.shape.numpy())


class _Pool:
    """The initializers that may hold a parameter under another name, by shape."""

    def __init__(self, model: ir.Model, sizes: set[int], taken: set[str]) -> None:
        self._taken = set(taken)
        self._by_shape: dict[tuple[int, ...], list[str]] = {}
        self._values = model.graph.initializers
        for name, value in self._values.items():
            if value.const_value is not None and value.const_value.size in sizes:
                self._by_shape.setdefault(_shape(value) or (), []).append(name)

    def take(self, array: Array) -> str | None:
        """Return the initializer with these values, one not yet taken first."""
        views = [array, array.T] if array.ndim == 2 else [array]
        names = [
            (name in self._taken, name)
            for view in views
            for name in self._equal_to(view, self._by_shape.get(view.shape, ()))
        ]
        if not names:
            return None
        # The first that is free, in the order of the graph; sorting must not compare names.
        name = min(names, key=lambda pair: pair[0])[1]
        self._taken.add(name)
        return name

    def _equal_to(self, view: Array, names: Iterable[str]) -> list[str]:
        return [name for name in names if _equal(view, self._array(name))]

    def _array(self, name: str) -> Array:
        tensor = self._values[name].const_value
        assert tensor is not None
        return tensor.numpy()


def _equal(left: Array, right: Array) -> bool:
    if left.dtype != right.dtype:
        return False
    probes = np.linspace(0, max(0, left.size - 1), min(left.size, _NUM_PROBES)).astype(np.int64)
    at = np.unravel_index(probes, left.shape)
    return bool(np.array_equal(left[at], right[at]) and np.array_equal(left, right))
