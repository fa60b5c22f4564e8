"""What one call of an operation multiplies: its factors, its multiply-adds, its layer shape."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from cost_models import LayerShape
from cost_models.workload import Op


@dataclass(frozen=True)
class Role:
    """A factor of a call, seen as the weight of a layer.

    Attributes:
        weight: the factor, arranged as ``LayerShape.weight_shape`` says; with a stack of matrices,
            the stack comes first.
        shape: the layer shape of each use.
        num_uses: uses at this shape: one, or one for each matrix of a stack.
    """

    weight: Tensor
    shape: LayerShape
    num_uses: int = 1


class Call(Protocol):
    """A call that may consume a weight."""

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole batch."""

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """The two tensors that are multiplied, the usual place of the weight last."""

    def role(self, index: int) -> Role | None:
        """Return a factor as a layer's weight, or None where it cannot be one."""


@dataclass(frozen=True)
class MatrixProduct:
    """``left @ right``: ``[..., m, k]`` times ``[..., k, n]``, with at most one stack dimension."""

    left: Tensor
    right: Tensor
    has_bias: bool = False

    @property
    def macs(self) -> int:
        """Multiply-adds: m k n for each matrix of the stack."""
        return self.left.numel() * int(self.right.shape[-1])

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """The two matrices; activations usually stand on the left of a linear layer."""
        return self.left, self.right

    def role(self, index: int) -> Role:
        """Return the matrix as a linear layer's weight, ``[out, in]``."""
        if index == 1:
            return _linear_role(self.right.mT, self.left, self.has_bias)
        return _linear_role(self.left, self.right.mT, self.has_bias)


def _linear_role(weight: Tensor, activation: Tensor, has_bias: bool) -> Role:
    num_matrices = 1
    if weight.dim() == 3:
        if weight.shape[0] == 1 or weight.stride(0) == 0:
            weight = weight[0]
        else:
            num_matrices, activation = int(weight.shape[0]), activation[0]
    shape = LayerShape(
        op="linear",
        weight_shape=tuple(weight.shape[-2:]),
        input_shape=tuple(activation.shape),
        has_bias=has_bias,
        dtype=_dtype(weight),
    )
    return Role(weight, shape, num_matrices)


@dataclass(frozen=True)
class GroupedProduct:
    """Rows of ``left`` in runs, each run times its own matrix: ``[m, k]`` and ``[g, k, n]``."""

    left: Tensor
    right: Tensor

    @property
    def macs(self) -> int:
        """Multiply-adds: m k n, each row meeting one matrix."""
        return self.left.numel() * int(self.right.shape[-1])

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """The rows and the matrices."""
        return self.left, self.right

    def role(self, index: int) -> Role | None:
        """Return the matrices as linear layers, the rows shared out evenly among them."""
        if index == 0:
            return None
        num_matrices = int(self.right.shape[0])
        rows = max(1, int(self.left.shape[0]) // num_matrices)
        shape = LayerShape(
            op="linear",
            weight_shape=(int(self.right.shape[2]), int(self.right.shape[1])),
            input_shape=(rows, int(self.left.shape[1])),
            dtype=_dtype(self.right),
        )
        return Role(self.right.mT, shape, num_matrices)


@dataclass(frozen=True)
class Convolution:
    """A convolution, transposed or not: a kernel that meets every output (or input) place."""

    source: Tensor
    kernel: Tensor
    output: Tensor
    has_bias: bool
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    is_transposed: bool
    groups: int

    @property
    def macs(self) -> int:
        """Multiply-adds: kernel elements times output places (input places if transposed)."""
        places = self.source if self.is_transposed else self.output
        return self.kernel.numel() * int(places.shape[0]) * math.prod(places.shape[2:])

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """The feature map and the kernel."""
        return self.source, self.kernel

    def role(self, index: int) -> Role | None:
        """Return the kernel as a convolution's weight."""
        if index == 0:
            return None
        num_dimensions = self.kernel.dim() - 2
        shape = LayerShape(
            op=_CONVOLUTIONS[num_dimensions, self.is_transposed],
            weight_shape=tuple(self.kernel.shape),
            input_shape=tuple(self.source.shape),
            groups=self.groups,
            stride=_per_dimension(self.stride, num_dimensions),
            padding=_per_dimension(self.padding, num_dimensions),
            dilation=_per_dimension(self.dilation, num_dimensions),
            has_bias=self.has_bias,
            dtype=_dtype(self.kernel),
        )
        return Role(self.kernel, shape)


_CONVOLUTIONS: dict[tuple[int, bool], Op] = {
    (1, False): "conv1d",
    (2, False): "conv2d",
    (3, False): "conv3d",
    (1, True): "conv_transpose1d",
    (2, True): "conv_transpose2d",
    (3, True): "conv_transpose3d",
}


@dataclass(frozen=True)
class LookUp:
    """Rows of a table picked by indices: no multiply-adds."""

    table: Tensor
    indices: Tensor

    @property
    def macs(self) -> int:
        """None: nothing is multiplied."""
        return 0

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """The indices and the table."""
        return self.indices, self.table

    def role(self, index: int) -> Role | None:
        """Return the table as an embedding's weight."""
        if index == 0:
            return None
        shape = LayerShape(
            op="embedding",
            weight_shape=tuple(self.table.shape),
            input_shape=tuple(self.indices.shape),
            dtype=_dtype(self.table),
        )
        return Role(self.table, shape)


def _per_dimension(figures: Sequence[int], num_dimensions: int) -> tuple[int, ...]:
    return tuple(figures) if len(figures) == num_dimensions else (figures[0],) * num_dimensions


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
