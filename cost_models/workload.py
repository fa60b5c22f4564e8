"""What a model's weights do in one forward pass: the description that needs no torch."""

import math
from dataclasses import dataclass
from typing import Literal

from cost_models.channel_group import ChannelGroup
from cost_models.documents import document
from cost_models.errors import UnknownNameError
from cost_models.shape_consistency import require_consistent

WORKLOAD_SCHEMA_VERSION = 2

_GREATEST_SIZE = 2**48
"""No tensor has a longer dimension; products of a few of them stay finite as floats."""

Op = Literal[
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "linear",
    "embedding",
]
"""Operations that consume weights.  ``linear`` stands for every product of a weight matrix with
activations (linear, addmm, mm, bmm)."""


@document
@dataclass(frozen=True)
class LayerShape:
    """All that the time of a layer depends on, besides the device: the key of a measurement.

    Attributes:
        op: the operation.
        weight_shape: ``[out, in / groups, *kernel]``; of a transposed convolution
            ``[in, out / groups, *kernel]``; of a linear layer ``[out, in]``.
        input_shape: shape of the activation it reads, batch first.
        groups: groups of a convolution.
        stride, padding, dilation: of a convolution, one figure per spatial dimension.
        has_bias: whether a bias is added.
        dtype: of the weight.
    """

    op: Op
    weight_shape: tuple[int, ...]
    input_shape: tuple[int, ...]
    groups: int = 1
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    has_bias: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Refuse shapes that no layer can have."""
        for name in ("weight_shape", "input_shape", "stride", "dilation"):
            if any(not 1 <= size <= _GREATEST_SIZE for size in getattr(self, name)):
                raise ValueError(f"{name} must hold positive sizes of at most {_GREATEST_SIZE}")
        if len(self.weight_shape) < 2:
            raise ValueError("weight_shape must have at least two dimensions")
        if not 1 <= self.groups <= _GREATEST_SIZE:
            raise ValueError("groups must be at least 1")
        if any(not 0 <= size <= _GREATEST_SIZE for size in self.padding):
            raise ValueError("padding must not be negative")
        require_consistent(self)

    @property
    def num_weights(self) -> int:
        """Number of elements of the weight."""
        return math.prod(self.weight_shape)

    @property
    def is_convolution(self) -> bool:
        """Whether the layer slides a kernel (transposed convolutions included)."""
        return self.op.startswith("conv")

    def label(self) -> str:
        """Short text for tables, such as ``conv2d 256x256x3x3 /2 @ 8x8`` (stride 2)."""
        weight = "x".join(map(str, self.weight_shape))
        if self.is_convolution:
            place = "x".join(map(str, self.input_shape[2:]))
        else:
            place = "x".join(map(str, self.input_shape[:-1]))
        stride = f" /{self.stride[0]}" if any(step != 1 for step in self.stride) else ""
        groups = f" in {self.groups} groups" if self.groups > 1 else ""
        return f"{self.op} {weight}{groups}{stride} @ {place or '1'}"


@document
@dataclass(frozen=True)
class SlicedWeight:
    """A weight whose operations each consume a part of it.

    Attributes:
        num_weights: elements of the whole weight.
        macs: multiply-adds per sample of all its uses.
    """

    num_weights: int
    macs: int


@document
@dataclass(frozen=True)
class LayerWorkload:
    """What one prunable or fixed weight does in one forward pass.

    Attributes:
        name: the parameter's name in the model.
        shape: what its time depends on.
        positions: output positions at which each weight element is used, per sample, summed over
            the uses of a tied weight.
        num_uses: how many operations of one forward pass consume the weight at this shape.
        prunable: whether a plan may prune it.
        not_prunable_because: the reason where it may not.
        further_shapes: one entry per further use, at another shape (a head shared by several
            feature maps, slices of a packed weight).
        sliced: where the uses cover slices only: elements and multiply-adds of the whole.
    """

    name: str
    shape: LayerShape
    positions: int
    num_uses: int = 1
    prunable: bool = True
    further_shapes: tuple[LayerShape, ...] = ()
    sliced: SlicedWeight | None = None
    not_prunable_because: str = ""

    def __post_init__(self) -> None:
        """Refuse figures that no forward pass can have."""
        if self.positions < 1 or self.num_uses < 1:
            raise ValueError("positions and num_uses must be at least 1")

    @property
    def num_weights(self) -> int:
        """Number of elements of the weight."""
        return self.sliced.num_weights if self.sliced else self.shape.num_weights

    @property
    def macs(self) -> int:
        """Multiply-adds per sample: elements times positions; none for a table look-up."""
        if self.shape.op == "embedding":
            return 0
        return self.sliced.macs if self.sliced else self.num_weights * self.positions

    @property
    def uses(self) -> tuple[LayerShape, ...]:
        """The shape of every use."""
        return (self.shape,) * self.num_uses + self.further_shapes


@document
@dataclass(frozen=True)
class ActivationProduct:
    """Products of activations with each other, such as attention's: counted, never pruned.

    Attributes:
        op: the operation's name.
        left_shape, right_shape: of the two factors, ``[..., m, k]`` and ``[..., k, n]``.
        num_calls: calls at these shapes in one forward pass.
        macs: multiply-adds per sample of all these calls.
    """

    op: str
    left_shape: tuple[int, ...]
    right_shape: tuple[int, ...]
    num_calls: int
    macs: int

    def __post_init__(self) -> None:
        """Refuse figures that no forward pass can have."""
        if self.num_calls < 1 or self.macs < 0:
            raise ValueError("num_calls must be at least 1 and macs not negative")


@document
@dataclass(frozen=True)
class UnpricedOperation:
    """An operation whose cost no figure of this workload contains.

    Attributes:
        op: the operation's name.
        num_calls: calls in one forward pass.
        num_output_elements: elements it writes in one forward pass.
    """

    op: str
    num_calls: int
    num_output_elements: int

    def __post_init__(self) -> None:
        """Refuse figures that no forward pass can have."""
        if self.num_calls < 1 or self.num_output_elements < 0:
            raise ValueError("num_calls must be at least 1 and num_output_elements not negative")


@document
@dataclass(frozen=True)
class Workload:
    """A model as everything without torch sees it.

    Attributes:
        schema_version: version of this document.
        model: the name the user gave.
        fingerprint: SHA-256 over names and shapes of all parameters.
        num_parameters: elements of all parameters, the ones outside ``layers`` included.
        layers: every weight that an operation consumes, in the order of first use.
        unpriced: operations that no figure of this workload contains.
        products: products of activations with each other.
        graph: the model's ONNX graph with its weights left out, compressed, as text: by it the
            whole model is run on the target.  Empty where the model could not be exported.
        channel_groups: channels that can go together; empty where nobody looked for them.
    """

    schema_version: Literal[2]
    model: str
    fingerprint: str
    num_parameters: int
    layers: tuple[LayerWorkload, ...]
    unpriced: tuple[UnpricedOperation, ...] = ()
    products: tuple[ActivationProduct, ...] = ()
    graph: str = ""
    channel_groups: tuple[ChannelGroup, ...] = ()

    def __post_init__(self) -> None:
        """Refuse workloads that contradict themselves."""
        names = [layer.name for layer in self.layers]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"layer {repeated[0]!r} appears twice")
        groups = [group.name for group in self.channel_groups]
        if len(set(groups)) < len(groups):
            raise ValueError("channel_groups must not hold the same name twice")
        if sum(layer.num_weights for layer in self.layers) > self.num_parameters:
            raise ValueError("the layers hold more weights than num_parameters says")

    @property
    def macs(self) -> int:
        """Multiply-adds per sample, of layers and of products of activations."""
        return sum(layer.macs for layer in self.layers) + self.product_macs

    @property
    def product_macs(self) -> int:
        """Multiply-adds per sample of the products of activations."""
        return sum(product.macs for product in self.products)

    def layer(self, name: str) -> LayerWorkload:
        """Return the layer of that name.

        Raises:
            UnknownNameError: there is none.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise UnknownNameError(f"the model {self.model} has no layer {name!r}")

    def shape_counts(self) -> dict[LayerShape, int]:
        """Return the distinct shapes with the number of uses of each, in order of first use."""
        counts: dict[LayerShape, int] = {}
        for layer in self.layers:
            for shape in layer.uses:
                counts[shape] = counts.get(shape, 0) + 1
        return counts
