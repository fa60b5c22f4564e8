"""Measured times of layers and of whole models."""

from dataclasses import dataclass

from cost_models.documents import document
from cost_models.figures import (
    require_not_negative,
    require_positive,
)
from cost_models.layout import Layout
from cost_models.linear_cost import LinearCost
from cost_models.workload import LayerShape


@document
@dataclass(frozen=True)
class Sample:
    """One measured point: so many whole blocks kept took so long."""

    num_kept_blocks: int
    latency_ms: float

    def __post_init__(self) -> None:
        """Refuse figures that nobody can have measured."""
        require_not_negative(self, "num_kept_blocks")
        require_positive(self, "latency_ms")


@document
@dataclass(frozen=True)
class SparseTiming:
    """The fitted time of the lowered form of a layer in one layout.

    Attributes:
        layout: text form of the layout.
        fixed_ms, per_block_ms: the fit ``fixed_ms + per_block_ms * kept blocks``.
        max_fit_error: largest ``|fitted / measured - 1|`` over the samples.
        samples: what was measured.
    """

    layout: str
    fixed_ms: float
    per_block_ms: float
    max_fit_error: float
    samples: tuple[Sample, ...]

    def __post_init__(self) -> None:
        """Refuse unknown layouts and negative times."""
        Layout.parse(self.layout)
        require_not_negative(self, "fixed_ms", "per_block_ms", "max_fit_error")


@document
@dataclass(frozen=True)
class LayerTiming:
    """The times of one distinct layer shape.

    Attributes:
        shape: the shape.
        dense_ms: median time of the dense form.
        relative_spread: half the interquartile range of the dense form over its median.
        sparse: the lowered forms that were measured.
    """

    shape: LayerShape
    dense_ms: float
    relative_spread: float
    sparse: tuple[SparseTiming, ...] = ()

    def __post_init__(self) -> None:
        """Refuse times that are not positive, and one layout timed twice."""
        require_positive(self, "dense_ms")
        require_not_negative(self, "relative_spread")
        layouts = [sparse.layout for sparse in self.sparse]
        if len(set(layouts)) != len(layouts):
            raise ValueError("sparse must not hold the same layout twice")

    def linear_cost(self, sparse: SparseTiming) -> LinearCost:
        """Return the linear cost of one of the sparse forms."""
        return LinearCost(self.dense_ms, sparse.fixed_ms, sparse.per_block_ms, "ms")

    def break_even_density(self, sparse: SparseTiming) -> float:
        """Return the density under which that sparse form beats the dense one."""
        num_blocks = Layout.parse(sparse.layout).num_whole_blocks(self.shape.weight_shape)
        return self.linear_cost(sparse).break_even_density(num_blocks)


@document
@dataclass(frozen=True)
class ModelTiming:
    """A whole dense model, measured.

    Attributes:
        model: what the workload calls it.
        fingerprint: the workload's.
        dense_ms: time of one run.
        layers_ms: the part of it that belongs to layers.
        rest_ms: the part that belongs to no layer: other operations and the run itself.
        shapes_digest: :func:`cost_models.shapes_digest.shapes_digest` of the workload, which says
            at which input shapes it ran; empty where nobody noted it: then it fits no workload.
    """

    model: str
    fingerprint: str
    dense_ms: float
    layers_ms: float
    rest_ms: float
    shapes_digest: str = ""

    def __post_init__(self) -> None:
        """Refuse times that are not positive."""
        require_positive(self, "dense_ms", "layers_ms")
        require_not_negative(self, "rest_ms")
